"""Files that are there as a whole or not at all, whatever ends their writing."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write to; after the block it is flushed to the disk and takes the place of `path`.

    An error or a kill leaves the former file, if there was one. What a killed process wrote stays beside it, hidden,
    until the next writer of `path` begins: one process at a time may write a file.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> with written_whole(file) as new:
    ...     _ = new.write_text("[1]")
    >>> file.read_text(), list(file.parent.iterdir()) == [file]
    ('[1]', True)
    """
    path = Path(path)
    new = path.with_name(f".{path.name}.part")
    try:
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
