"""Several processes under `torchrun` or `accelerate launch` that share the work of a command."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from .launch import check_launch, launched_processes
from .watch import peer_timeout, watch_once

Work = TypeVar("Work")
Done = TypeVar("Done")


def start_processes() -> PartialState:
    """This process among those that a launcher started, which the first one says; without a GPU they talk by gloo.

    One that vanishes ends the others (see `watch`). Raises ValueError as `check_processes` does.
    """
    check_processes()
    seconds = peer_timeout()
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    # At the end they wait for the slowest one, however long that takes, as long as it gives signs of life.
    state = PartialState(cpu=cpu, timeout=timedelta(days=30))
    if state.num_processes > 1:
        watch_once(state.process_index, state.num_processes, seconds)
    if state.is_main_process:
        print(count_processes(state.num_processes), flush=True)
    return state


def count_processes(number: int) -> str:
    """ "1 process", "2 processes"."""
    return f"{number} process{'es' if number > 1 else ''}"


def check_processes() -> None:
    """ValueError where less processes were started than asked for, or more than there are GPUs for."""
    check_launch()
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    if here == 1 or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available():
        return
    if here > (devices := torch.accelerator.device_count()):
        raise ValueError(
            f"{here} processes were started on a machine with {devices} GPU{'s' if devices > 1 else ''}, and each "
            "takes one of its own: start as many, or set ACCELERATE_USE_CPU=true to compute on the CPU."
        )


def several_on_cpu() -> bool:
    """Whether this is one of several processes on a machine without a GPU."""
    return (launched_processes() or 1) > 1 and not torch.accelerator.is_available()


def place() -> tuple[int, int]:
    """This process's number, and how many there are."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def shared(work: Sequence[Work], do: Callable[[Work], Done]) -> list[Done]:
    """`do` of each piece of work, in order, on every process; each does its share. What is done must be pickleable."""
    rank, processes = place()
    done = [do(one) for one in work[rank::processes]]
    if processes == 1:
        return done
    shares: list[list[Done]] = [[] for _ in range(processes)]
    torch.distributed.all_gather_object(shares, done)
    return [shares[number % processes][number // processes] for number in range(len(work))]


def on_main_process(state: PartialState, action: Any) -> Any:
    """What `action()` returns on the main process; a ValueError or OSError there is raised on every process."""
    result: list[Any] = [None]
    if state.is_main_process:
        try:
            result = [action()]
        except (ValueError, OSError) as error:
            result = [error]
    broadcast_object_list(result)
    if isinstance(result[0], ValueError | OSError):
        raise result[0]
    return result[0]
