"""Runs of `lookback` by the server that forks them, to be waited for or killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from tests.support import ROOT

LIMIT = 600.0  # seconds that a run may take on a machine with other work
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip


@dataclass
class Ended:
    """How a run came to its end: its exit status, below 0 for a signal; standard output and error together."""

    status: int
    said: str

    @property
    def killed(self) -> bool:
        return self.status in (-signal.SIGKILL, -signal.SIGXFSZ)

    @property
    def message(self) -> str:
        """The line that the command ends with, or nothing."""
        lines = self.said.replace("\r", "\n").splitlines()
        return next((line for line in lines if line.startswith("lookback ")), "")


class Run:
    """A run that began."""

    def __init__(self, pid: int, server: "Server"):
        self.pid, self.server, self.began = pid, server, time.monotonic()

    def kill(self) -> None:
        """SIGKILL of the whole process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    @property
    def ended(self) -> Ended | None:
        """How it came to its end, None as long as it runs."""
        while self.server.hear(0):
            pass
        return self.server.ended.get(self.pid)

    def wait(self, limit: float = LIMIT) -> Ended:
        """Until it is over; a run that takes longer than `limit` seconds is killed, and an AssertionError."""
        until = time.monotonic() + limit
        while self.pid not in self.server.ended:
            left = until - time.monotonic()
            if left <= 0 or not self.server.hear(left):
                self.kill()
                raise AssertionError(f"a run did not end within {limit} s")
        return self.server.ended.pop(self.pid)


class Server:
    """The process that forks runs."""

    def __init__(self, process: subprocess.Popen):
        self.process, self.ended, self.pids = process, dict[int, Ended](), list[int]()
        self.answers: Queue[dict[str, Any]] = Queue()
        Thread(target=self._read, daemon=True).start()
        assert self.answers.get(timeout=LIMIT) == {"ready": True}

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.answers.put(json.loads(line))

    def hear(self, limit: float) -> bool:
        try:
            answer = self.answers.get(limit > 0, limit or None)
        except Empty:
            return False
        if "pid" in answer:
            self.pids.append(answer["pid"])
        else:
            self.ended[answer["ended"]] = Ended(answer["status"], answer["said"])
        return True

    def start(self, argv: list[str], **settings: Any) -> Run:
        """`lookback` with the arguments; `settings` as in the server: env, watch, no_rights."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"argv": list(map(str, argv)), **settings}) + "\n")
        self.process.stdin.flush()
        while not self.pids:
            assert self.hear(LIMIT), "the server does not answer"
        return Run(self.pids.pop(), self)

    def run(self, argv: list[str], **settings: Any) -> Ended:
        return self.start(argv, **settings).wait()


@contextmanager
def server() -> Iterator[Server]:
    """A server, without network and accelerator, for as long as the block lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.faults.server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, cwd=ROOT, env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    try:
        yield Server(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(LIMIT)


def files(folder: Path) -> list[str]:
    """The names of all files below a folder, which may change meanwhile (`rglob` stops at what is gone)."""
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    return sorted(str(path.relative_to(folder)) for path in found)
