"""Several processes under `accelerate launch` or `torchrun` that share the work of a command."""

from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env


def start_processes() -> PartialState:
    """This process among those that `accelerate launch` or `torchrun` started; without a GPU they talk by gloo."""
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    # At the end they wait for the slowest one, however long that takes.
    return PartialState(cpu=cpu, timeout=timedelta(days=30))


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
