"""Files that are there as a whole or not at all, whatever ends their writing."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .travelling.saving import is_full_disk


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write to; after the block it is flushed to the disk and takes the place of `path`.

    An error or a kill leaves the former file, if there was one. What a killed process wrote stays beside it, hidden,
    until the next writer of `path` begins: one process at a time may write a file. A full disk is an OSError with the
    name of the file, whoever writes. A folder that is not there is made.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> with written_whole(file) as new:
    ...     _ = new.write_text("[1]")
    >>> file.read_text(), list(file.parent.iterdir()) == [file]
    ('[1]', True)
    """
    with full_disk_named(path), _written_whole(Path(path)) as new:
        yield new


def refuse_read(option: str, file: str | Path, **sources: str | Path | None) -> None:
    """ValueError for a file to write that would take the place of what is read or written besides, or lie in it:
    options' values by their names."""
    path = Path(file).resolve()
    for name, value in sources.items():
        source = None if value is None else Path(value).resolve()
        if source is not None and (path == source or (source.is_dir() and source in path.parents)):
            raise ValueError(f"{option}={str(file)!r} lies in --{name}={str(value)!r}: name a file outside of it.")


@contextmanager
def full_disk_named(place: str | Path) -> Iterator[None]:
    """A full disk in this block is an OSError with the name of a file, or of the `place` that is written to."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None and is_full_disk(error) and error.errno is not None:
            error.filename = str(place)
        elif is_full_disk(error) and not isinstance(error, OSError):  # safetensors', torch's
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place)) from error
        raise


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    new = path.with_name(f".{path.name}.part")
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        new.touch()
        mode = stat.S_IMODE(new.stat().st_mode)
        yield new
        new.chmod(mode)  # some writers, such as safetensors', put a file that is the owner's alone in its place
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
