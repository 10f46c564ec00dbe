"""One save at a time into a folder, of several processes or threads."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers.utils import logging

try:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
except ImportError:  # Windows
    flock = None  # type: ignore[assignment]

_PATIENCE, _PAUSE = 600.0, 0.05  # seconds: how long to wait for another's save, and between two tries
logger = logging.get_logger(__name__)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder, and hold its lock meanwhile; waits for another who has it.

    Raises OSError where that takes longer than ten minutes.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as mine:
            if mine:
                yield
                return
        if time.monotonic() > until:
            what = f"another process has been saving into {str(folder)!r} for {_PATIENCE:.0f} seconds"
            raise OSError(errno.EBUSY, f"{what}: end it, or name another folder")
        logger.warning_once(f"Another process saves into {str(folder)!r}: this save waits until it is done.")
        time.sleep(_PAUSE)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether nobody else has the lock of a folder, which is held meanwhile; it goes with its process.

    Where there are none (Windows, some network file systems) everybody has it.
    """
    if flock is None:
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # The folder may have gone with a first save into it that failed, and another stand in its place.
        yield _taken(handle) and folder.is_dir() and os.path.samestat(os.fstat(handle), folder.stat())
    finally:
        with suppress(OSError):
            flock(handle, LOCK_UN)  # closing is not enough: a copy of the process, made meanwhile, has the handle, too
        os.close(handle)


def _taken(handle: int) -> bool:
    try:
        flock(handle, LOCK_EX | LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN)
    return True
