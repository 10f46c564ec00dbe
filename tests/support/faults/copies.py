"""Copies of the test's own process: begun at once, as all is imported, and killed where the test wants it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing.process import BaseProcess
from typing import Any

from trainers import cli


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work: Callable[[], Any]) -> None:
    """Run `work` in a copy of this process, which must end by its own SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def started(argv: list[str], **environment: str) -> BaseProcess:
    """`lookback` with the arguments in a copy of this process, whose `exitcode` is the command's."""
    import_module(cli.COMMANDS[argv[0]][0])  # once, and not in each copy
    process = multiprocessing.get_context("fork").Process(target=_command, args=(argv, environment), daemon=True)
    process.start()
    return process


def _command(argv: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    sys.argv = ["lookback", *argv]
    cli.main()
