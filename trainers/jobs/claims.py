"""Claims on pieces of work by workers that have nothing but a folder in common: no coordinator, no locks, no clock.

A claim is a file that one worker alone can create, whatever storage it is on, and its holder counts up a number in it.
Where the number stands still for LOOKBACK_PEER_TIMEOUT seconds of the onlooker's own clock, the holder is taken for
dead, and the next claim on the same work may be created, again by one alone; so, at once, where the holder gave up or
was a process of the same machine that is gone, and after two signs' time where what it wrote was cut off. No claim is
ever removed or changed hands.

A claim saves work and decides nothing: a worker that was only slow goes on, and so two may do the same. What they do
must be whole files of the same bytes.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from .watch import INTERVAL, peer_timeout

_GIVEN_UP = "given up"


class Claims:
    """The claims of one worker in a folder that all workers see.

    Args:
        seconds: how long a claim may stand still; by default `peer_timeout`.
    """

    def __init__(self, folder: Path, seconds: float | None = None):
        self.folder, self.seconds = folder, seconds or peer_timeout()
        self.interval = min(INTERVAL, self.seconds / 4)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._seen: dict[Path, tuple[str, float]] = {}  # of another's claim what stood in it, and since when

    @contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Whether the work of this name is this worker's, which then gives signs of life until the block ends."""
        if (path := self._created(name)) is None:
            yield False
            return
        ended = threading.Event()
        signs = threading.Thread(target=self._give_signs, args=(path, ended), daemon=True)
        signs.start()
        try:
            yield True
        except BaseException:
            ended.set()
            signs.join()
            self._write(path, _GIVEN_UP)
            raise
        finally:
            ended.set()
            signs.join()

    def _created(self, name: str) -> Path | None:
        """The claim, if it could be had: the first one, or the one behind a dead holder's."""
        number = 0
        while self._path(name, number).exists():
            number += 1
        if number and not self._is_dead(self._path(name, number - 1)):
            return None
        path = self._path(name, number)
        try:
            with path.open("x", encoding="utf-8") as file:  # O_EXCL, which one alone succeeds with
                file.write(self._sign(0))
        except (FileExistsError, FileNotFoundError):  # another was faster; or the folder is gone, as all is done
            return None
        return path

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}.{number}.claim"

    def _is_dead(self, path: Path) -> bool:
        """Whether nobody works under another's claim any more, as far as one can see."""
        try:
            sign = path.read_text(encoding="utf-8")
        except OSError:
            return False
        if sign == _GIVEN_UP or _is_gone(sign):
            return True
        now = time.monotonic()
        before, since = self._seen.get(path, (None, now))
        self._seen[path] = (sign, since if sign == before else now)
        # What was cut off as it was written, a holder that lives has written anew by its next sign.
        patience = 2 * self.interval if _is_cut_off(sign) else self.seconds
        return now - self._seen[path][1] > patience

    def _give_signs(self, path: Path, ended: threading.Event) -> None:
        number = 1
        while not ended.wait(self.interval):
            self._write(path, self._sign(number))
            number += 1

    def _sign(self, number: int) -> str:
        return json.dumps({"worker": self.worker, **_this_process(), "sign": number})

    def _write(self, path: Path, text: str) -> None:
        # Another reads it half written at worst, which is one more sign of life; a lost one is followed by others.
        with suppress(OSError):
            path.write_text(text, encoding="utf-8")


@cache
def _this_process() -> dict[str, str | int | float]:
    return {"machine": _machine(), "pid": os.getpid(), "started": psutil.Process().create_time()}


@cache
def _machine() -> str:
    """What two machines, or two containers, do not have in common, even under one host name."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _is_cut_off(sign: str) -> bool:
    try:
        json.loads(sign)
    except ValueError:
        return True
    return False


def _is_gone(sign: str) -> bool:
    """Whether a sign is of a process of this machine that is no more."""
    try:
        holder = json.loads(sign)
        if holder["machine"] != _machine():
            return False
        process = psutil.Process(holder["pid"])
        # The pid may be another's by now; of a killed one that its parent has not asked after, a zombie stays.
        return process.create_time() != holder["started"] or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError, psutil.Error):  # half written, or not ours to see
        return False
