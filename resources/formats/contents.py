"""The bytes of an order file: as they are, unpacked, or of the members of an archive."""

from __future__ import annotations

import gzip
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from resources.errors import Refused
from resources.settings import CsvDialect

SHOWN_MEMBERS = 6


class UnreadableFile(Refused):
    """A file can't be taken in; the message names file, line or column, and what to do. Nothing of
    it was stored.
    """


@dataclass(frozen=True)
class Content:
    """The bytes of a file, decompressed, or of one member of an archive; ``name`` is what messages
    call it.
    """

    name: str
    opened: Callable[[], AbstractContextManager[Any]]

    @contextmanager
    def seekable(self) -> Iterator[IO[bytes]]:
        """The bytes with random access: what is compressed is unpacked into a temporary file."""
        with self.opened() as stream:
            if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
                yield stream
                return
            with tempfile.TemporaryFile() as unpacked:
                while chunk := stream.read(1 << 20):
                    unpacked.write(chunk)
                unpacked.seek(0)
                yield unpacked


_MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".zip": b"PK\x03\x04"}
_EMPTY_ZIP = b"PK\x05\x06"


def contents(path: str, suffixes: tuple[str, ...], byte_count: int | None = None) -> list[Content]:
    """What is to be read of a file: itself, what it is compressed from, or members of an
    archive.
    """
    with open(path, "rb") as stream:
        start = stream.read(4)
    packing = next((suffix for suffix, magic in _MAGIC.items() if start.startswith(magic)), None)
    named = Path(path).suffix.lower()
    if named in _MAGIC and packing != named and start != _EMPTY_ZIP:
        raise UnreadableFile(
            f"{path}: its name ends in {named}, but it is no such archive; deliver it again"
            " complete, or name it by what it is"
        )
    if packing == ".zip" or start == _EMPTY_ZIP:
        return _members(path, suffixes)
    if packing == ".gz":
        return [Content(path, lambda: _gunzipped(path))]
    if packing == ".zst":
        return [Content(path, lambda: _unpacked_zstd(path))]
    if byte_count is not None and Path(path).stat().st_size > byte_count:
        return [Content(path, lambda: io.BufferedReader(_Beginning(path, byte_count)))]
    return [Content(path, lambda: open(path, "rb"))]


def _gunzipped(path: str) -> gzip.GzipFile:
    return gzip.open(path, "rb")


def _unpacked_zstd(path: str) -> IO[bytes]:
    return io.BufferedReader(_Zstd(path))


class _Zstd(io.RawIOBase):
    """Frames of Zstandard, one after the other; unlike the library's own reader, it raises EOFError
    where the last is not whole.
    """

    def __init__(self, path: str) -> None:
        import zstandard

        self._stream = open(path, "rb")  # noqa: SIM115
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._packed, self._unpacked = b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            self._packed = self._packed or self._stream.read(1 << 17)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the compressed file ends before its end marker")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._unpacked = self._frame.decompress(self._packed)
            self._packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        chunk = self._unpacked[: len(buffer)]
        self._unpacked = self._unpacked[len(buffer) :]
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._stream.close()
        super().close()


def zstd_errors() -> tuple[type[Exception], ...]:
    """What the library raises of a file that is no zstd or is cut off."""
    import zstandard

    return (zstandard.ZstdError,)


def _members(path: str, suffixes: tuple[str, ...]) -> list[Content]:
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
    names = [info.filename for info in infos]
    if ".xlsx" in suffixes and {"[Content_Types].xml", "mimetype"} & set(names):
        return [Content(path, lambda: open(path, "rb"))]  # a workbook is a zip archive itself
    if locked := [info.filename for info in infos if info.flag_bits & 1]:
        raise UnreadableFile(
            f"{path}: {locked[0]} in it is protected by a password; deliver it without"
        )
    held = [name for name in names if not _is_hidden(name)]
    of_format = [name for name in held if name.lower().endswith(suffixes)]
    if not held or (len(held) > 1 and len(of_format) < len(held)):
        raise UnreadableFile(
            f"{path}: the archive holds {', '.join(held[:SHOWN_MEMBERS]) or 'no file'}"
            f"{' and more' if len(held) > SHOWN_MEMBERS else ''}; one file is read from an archive,"
            f" or several of the format of the source ({', '.join(suffixes)})."
            " Deliver an archive with nothing else in it, or the files unpacked."
        )

    def opened(member: str) -> Callable[[], AbstractContextManager[Any]]:
        @contextmanager
        def open_member() -> Iterator[IO[bytes]]:
            with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                yield stream

        return open_member

    return [Content(f"{path}: {name}", opened(name)) for name in sorted(held)]


def _is_hidden(member: str) -> bool:
    parts = PurePosixPath(member).parts
    return any(part.startswith((".", "__MACOSX")) for part in parts)


class _Beginning(io.RawIOBase):
    """The first bytes of a file, read one after the other."""

    def __init__(self, path: str, byte_count: int) -> None:
        self._stream, self._left = open(path, "rb"), byte_count  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._stream.read(min(len(buffer), self._left))
        buffer[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def text_of(content: Content, dialect: CsvDialect, newline: str | None = "") -> Iterator[IO[str]]:
    """The content as text. Bytes that the encoding does not know become half characters."""
    encoding = (
        "utf-8-sig"
        if dialect.encoding.lower().replace("_", "-") in {"utf-8", "utf8"}
        else dialect.encoding
    )
    with (
        content.opened() as stream,
        io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline=newline) as text,
    ):
        yield text
