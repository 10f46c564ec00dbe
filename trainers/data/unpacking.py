"""Files that may be compressed: one that is cut off or damaged is an error, and not a shorter one."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard

_DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
# Of a .zst file: bytes that are unpacked at once (the most repetitive become 16 MiB), and how far it may look back (as
# `zstd --long=31` does).
_BLOCK, _WINDOW = 1 << 9, 1 << 31


class _ZstdFile(io.RawIOBase):
    """What all frames of a .zst file hold; zstandard's own reader ends without a word where a cut file does."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._parts, self._rest = self._unpack(), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and (part := next(self._parts, None)) is not None:
            self._rest = memoryview(part)  # of which a slice is no copy
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _unpack(self) -> Iterator[bytes]:
        frame: Any = None
        rest = b""
        while block := rest or self._file.read(_BLOCK):
            frame = frame or zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
            rest = b""
            yield frame.decompress(block)
            if frame.eof:
                frame, rest = None, frame.unused_data
        if frame is not None:
            raise EOFError("it ends within a frame")


_OPEN: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: io.BufferedReader(_ZstdFile(path)),
}
COMPRESSIONS = tuple(_OPEN)


def packing(path: Path) -> str:
    """The suffix that says how a file is packed, in lower case; "" where none does."""
    suffix = path.suffix.lower()
    return suffix if suffix in _OPEN else ""


@contextmanager
def unpacked(path: Path) -> Iterator[Any]:
    """A file's bytes, unpacked where its name ends so; ValueError for those cut off, damaged or packed otherwise."""
    try:
        with _OPEN.get(packing(path), lambda path: path.open("rb"))(path) as stream:
            yield stream
    except _DAMAGE as error:
        if not packing(path) or (isinstance(error, OSError) and error.errno is not None):
            raise  # of the disk, not of what stands there
        raise ValueError(f"{path} cannot be unpacked ({error}): fetch or pack it again.") from error
