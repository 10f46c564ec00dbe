"""What was probably meant by a command or an option that there is not."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

# What it is called by other commands, other programs or the papers -> what it may be called here.
ALSO_CALLED = {
    "alpha": ("lora_alpha",),
    "base_model": ("model", "base"),
    "batch": ("per_device_train_batch_size", "batch_size"),
    "batch_size": ("per_device_train_batch_size",),
    "checkpoint": ("resume_from_checkpoint",),
    "corpus": ("data", "train_data"),
    "data": ("train_data",),
    "data_path": ("data", "train_data"),
    "dataset": ("data", "train_data"),
    "dim": ("truncate_dim", "embedding_dims"),
    "documents": ("rows",),
    "epochs": ("num_train_epochs",),
    "file": ("data", "train_data"),
    "hub_id": ("repo_id", "hub_model_id"),
    "input": ("data", "train_data"),
    "k": ("top_k", "ks"),
    "learning_rate_schedule": ("lr_scheduler_type",),
    "lora_r": ("lora_rank",),
    "lr": ("learning_rate",),
    "max_len": ("max_length",),
    "max_seq_length": ("max_length",),
    "model_name": ("model",),
    "model_name_or_path": ("model",),
    "model_path": ("model",),
    "negatives": ("num_negatives",),
    "out": ("output", "output_dir"),
    "output": ("output_dir", "local_dir"),
    "output_dir": ("output", "local_dir"),
    "output_file": ("output",),
    "num_gpus": ("gpus",),
    "pairs": ("rows",),
    "passages": ("corpus",),
    "peft": ("lora_rank",),
    "per_device_train_batch_size": ("batch_size",),
    "rank": ("lora_rank",),
    "resume": ("resume_from_checkpoint",),
    "steps": ("max_steps",),
    "teacher": ("model",),
    "tflops": ("peak_tflops",),
    "train_data": ("data",),
    "train_file": ("train_data", "data"),
}


def meant_option(name: str, options: Sequence[str]) -> str | None:
    """The option that was probably meant by one of no command, None if none is near; earlier ones are preferred.

    >>> meant_option("data", ["model", "train_data", "data_seed"]), meant_option("trian_data", ["model", "train_data"])
    ('train_data', 'train_data')
    """
    asked = name.replace("-", "_")
    named = [other for other in ALSO_CALLED.get(asked, ()) if other in options]
    words = set(asked.split("_"))
    holding = [option for option in options if words <= set(option.split("_"))]
    near = get_close_matches(asked, options, n=1, cutoff=0.75)
    found = [*named, *near, *holding, *get_close_matches(asked, options, n=1)]
    return found[0] if found else None


def meant_command(name: str, commands: Iterable[str]) -> str | None:
    """The command that was probably meant by one that there is not, None if none is near."""
    found = get_close_matches(name.replace("_", "-").lower(), list(commands), n=1, cutoff=0.5)
    return found[0] if found else None


def check_options(
    command: str, arguments: Sequence[str], options: Sequence[str], required: Iterable[str] = ()
) -> None:
    """ValueError for an option that the command does not have, and for required ones of which none stands there.

    Args:
        arguments: of the command line, behind the command's name.
        options: the names that it has; those that stand first are named first where several may be meant.
        required: those that have to be there, unless a settings file may have them.
    """
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    # With a blank in it argparse takes it for a value: --prompt "-- and then"
    named = [one[2:].partition("=")[0] for one in before if one.startswith("--") and " " not in one.partition("=")[0]]
    more = f"`lookback {command} --help` lists them"
    for name in named:
        plain = name.replace("-", "_")
        if plain not in options and plain.removeprefix("no_") not in options and plain != "config":
            meant = meant_option(name, [*options, "config", "help"])
            hint = "leave it out." if meant is None else f"did you mean --{meant}?"
            raise ValueError(f"--{name} is no option of this command: {hint} {more}.")
    given = {name.replace("-", "_") for name in named}
    missing = [f"--{name}" for name in required if name not in given]
    if missing and "config" not in given:
        raise ValueError(f"{' and '.join(missing)} must be given: {more}, with examples.")
