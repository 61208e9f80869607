"""Refused: the base of every error that a person, not a repeat, has to mend."""

import re

# Parameters of an address that let somebody in: ;token= of a Spark Connect address, ?secret_key= or
# &sig= of a store's.
_SECRET_PARAMETER = re.compile(
    r"([?&;](?:[\w.-]*(?:token|secret|passw(?:or)?d|pwd|credential|signature|api[_-]?key"
    r"|access[_-]?key|account[_-]?key)[\w.-]*|sig|key)=)"
    r"[^&;#\s'\"<>)\]}]*",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """The text with user and password, and parameters such as tokens and keys, cut out of every
    address in it.
    """
    # Up to the last @ before a slash: a password may hold one.
    return _SECRET_PARAMETER.sub(r"\1***", re.sub(r"://[^/\s]+@", "://***@", text))


def without_stack(text: str) -> str:
    """An error of the JVM without its stack: what it says, its last cause, and what to do where
    files can't be written.
    """
    said = [
        line.rstrip()
        for line in text.strip().splitlines()
        if line.strip() and not re.match(r"\s+(at |\.\.\. \d+ more|Suppressed: )", line)
    ]
    causes = [line for line in said if line.startswith("Caused by: ")]
    first = next((at for at, line in enumerate(said) if line.startswith("Caused by: ")), len(said))
    told = "\n".join([*said[:first], *causes[-1:]])
    if re.search("Resources exhausted|Failed to allocate", text):
        told += (
            "\nThe embedded engine's memory limit was reached, and this query can't spill to disk."
            " Nothing was half-written. Set embedded.memory_gb higher, make fewer months at once,"
            " or use engine: spark."
        )
    if re.search("Mkdirs failed|Read-only file system|Permission denied", text):
        told += (
            "\nA folder of the lakehouse can't be written: is it mounted read-only, or does it"
            " belong to somebody else? The table is as it was."
        )
    return told


class Refused(Exception):
    """Something was not done, and nothing was half-done; the message says what, where and what to
    do, and shows no credentials.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(without_credentials(message))
