"""How many processes a launcher was asked for, and how many it started: another number is an error before any work.

Nothing here imports torch.
"""

import os

TORCHRUN = "torchrun --nproc_per_node N -m trainers.cli COMMAND ..."
# Who started several processes says so in one of these: torchrun and accelerate, and the kinds of mpirun.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def launched_processes(environment: os._Environ[str] | dict[str, str] = os.environ) -> int | None:
    """How many processes a launcher started; None without one."""
    sizes = [environment[name] for name in _SIZES if environment.get(name, "").isdigit()]
    return max(map(int, sizes)) if sizes else None


def check_launch(environment: os._Environ[str] | dict[str, str] = os.environ) -> None:
    """ValueError where `accelerate launch` was asked for several processes, and started this one alone.

    It does so on a machine with less than two GPUs, without a word. It then names the place where the processes would
    have met, as it does for no single one, and leaves no word of their number, as it does for several.
    """
    asked_for_several = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    if asked_for_several and launched_processes(environment) is None:
        raise ValueError(
            "`accelerate launch` was asked for several processes and started one, as it does on a machine with less "
            f"than two GPUs: start them with `{TORCHRUN}` or `accelerate launch --multi_gpu --num_processes N`, which "
            "need no GPU, or ask for --num_processes 1."
        )


def check_alone(command: str, environment: os._Environ[str] | dict[str, str] = os.environ) -> None:
    """ValueError where several processes run a command whose work cannot be shared."""
    processes = launched_processes(environment)
    if processes is not None and processes > 1:
        raise ValueError(
            f"{processes} processes were started, and `lookback {command}` is the work of one: start it without a "
            "launcher."
        )
