"""Two workers of one command: forked without a launcher, or started by `torchrun` or `accelerate launch`."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import ROOT

from .runs import ENVIRONMENT, Ended, Server, files

LIMIT = 300.0  # seconds that the others may take to end; five minutes, for a machine with other work


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def environments(number: int = 2) -> list[dict[str, str]]:
    """What a launcher tells each of some workers."""
    size = str(number)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]


def until(true: Callable[[], bool], over: Callable[[], str | None]) -> None:
    """Waits until something is true; an AssertionError if the workers are over before, or after a minute."""
    end = time.monotonic() + LIMIT
    while not true():
        said = over()
        assert said is None or true(), f"it ended before: {said}"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


class Forked:
    """Two workers or more without a launcher, which would end the one that is left."""

    def __init__(self, server: Server, argv: list[str], number: int = 2):
        self.runs = [server.start(argv, env=environment) for environment in environments(number)]

    def wait_for_both(self) -> list[Ended]:
        """The ends of all, of which none was killed."""
        return [run.wait() for run in self.runs]

    def over(self) -> str | None:
        return next((str(run.ended.said) for run in self.runs if run.ended is not None), None)

    def kill(self, rank: int) -> None:
        self.left = self.runs[1 - rank]
        self.runs[rank].kill()

    def wait(self) -> Ended:
        """The end of the other worker."""
        return self.left.wait(LIMIT)

    def clear(self) -> None:
        for run in self.runs:
            run.kill()


def torchrun(argv: list[str]) -> list[str]:
    return ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "trainers.cli", *argv]


def accelerate_launch(argv: list[str]) -> list[str]:
    # accelerate (1.15) has no --multi_cpu, and --cpu starts one process where there is no mpirun; its way to several
    # is this one, and workers that see no GPU talk by gloo.
    how = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", free_port()]
    how += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return ["accelerate.commands.launch", *how, "-m", "trainers.cli", *argv]


LAUNCHERS = {"torchrun": torchrun, "accelerate launch": accelerate_launch}


class Launched:
    """Two workers and their launcher."""

    def __init__(self, launcher: str, argv: list[str], log: Path):
        self.log = log
        with log.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *LAUNCHERS[launcher](argv)], stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, start_new_session=True,
            )  # fmt: skip

    def over(self) -> str | None:
        return None if self.process.poll() is None else self.log.read_text()[-3000:]

    def workers(self) -> dict[int, int]:
        """Process id by rank."""
        found = {}
        for folder in Path("/proc").iterdir():
            with suppress(OSError, IndexError):  # of processes that end, and of the kernel
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    settings = dict(
                        line.split("=", 1) for line in (folder / "environ").read_text().split("\0") if line
                    )
                    if "RANK" in settings:
                        assert settings["WORLD_SIZE"] == "2"
                        found[int(settings["RANK"])] = int(folder.name)
        return found

    def kill(self, rank: int) -> None:
        until(lambda: len(self.workers()) == 2, self.over)
        os.kill(self.workers()[rank], signal.SIGKILL)

    def wait(self) -> Ended:
        """The end of the launcher; an AssertionError where a worker is left behind it."""
        status = self.process.wait(LIMIT)
        ended = Ended(status, self.log.read_text())
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 0)
            raise AssertionError(f"a worker is left: {ended}")
        return ended

    def clear(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def two_workers(server: Server, argv: list[str], launcher: str | None, log: Path) -> Iterator[Forked | Launched]:
    """Two workers that are at work, all ended behind the block."""
    workers = Forked(server, argv) if launcher is None else Launched(launcher, argv, log)
    try:
        yield workers
    finally:
        workers.clear()


def is_there(folder: Path, name: str) -> bool:
    return any(name in path for path in files(folder))
