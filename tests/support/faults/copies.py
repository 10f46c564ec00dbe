"""Copies of the test's own process that are killed where the test wants it."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work: Callable[[], Any]) -> None:
    """Run `work` in a copy of this process, which must end by its own SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
