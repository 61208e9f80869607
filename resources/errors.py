"""Refused: the base of every error that a person, not a repeat, has to mend."""

import re


def without_credentials(text: str) -> str:
    """The text with user and password cut out of every address in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


class Refused(Exception):
    """Something was not done, and nothing was half-done; the message says what, where and what to do, and shows no credentials."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_credentials(message))
