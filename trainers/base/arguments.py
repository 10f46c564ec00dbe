"""What the training arguments of the three methods share: transformers' own, for rows that are texts."""

import math
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from transformers import TrainingArguments

from hub_cards.travelling.checks import check_fields, check_types, shown

from ..jobs.places import check_repo_id
from ..jobs.processes import check_processes, several_on_cpu
from .options import SETTINGS, check_forms, check_packages, check_settings


@dataclass
class FamilyArguments(TrainingArguments):
    """`TrainingArguments` for rows of which each process reads its own share."""

    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: rows are texts, which no forward takes under their names."}
    )

    def __post_init__(self) -> None:
        for kind in type(self).__mro__:  # a wrong value is an error now, not after the model has loaded
            if is_dataclass(kind) and not issubclass(TrainingArguments, kind):
                check_fields(self, kind)
        check_types(self, _TRANSFORMERS_OWN)
        check_forms(self)
        check_processes()
        if several_on_cpu():
            self.use_cpu = True  # or transformers starts them as one process each, which know nothing of each other
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # nothing can be pinned, and torch would say so
        check_settings(self, SETTINGS)
        check_least(self, 1, "per_device_train_batch_size", "per_device_eval_batch_size")
        check_least(self, 1, "gradient_accumulation_steps")
        check_least(self, 0, "dataloader_num_workers", "eval_delay")
        check_least(self, 1, "ddp_timeout", "ddp_bucket_cap_mb", "torch_empty_cache_steps")
        check_finite(self, "learning_rate", "max_grad_norm", "weight_decay", "neftune_noise_alpha", "adam_epsilon")
        check_trained(self)
        check_packages(self)
        if self.push_to_hub or self.hub_model_id is not None:
            name = "output_dir" if self.hub_model_id is None else "hub_model_id"
            check_repo_id(name, self.hub_model_id or Path(str(self.output_dir)).absolute().name)
        if self.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns=True must be False: it would drop the texts of the rows; leave it out."
            )
        # accelerate would read streamed data on one process and cut its batches up by their first dimension, which
        # differs between queries and passages; each process reads its own share instead.
        accelerator: Any = self.accelerator_config  # an object by now, whatever form it was given in
        if accelerator.dispatch_batches:
            raise ValueError("dispatch_batches=True must be False: each process reads its own share; leave it out.")
        if not accelerator.even_batches:  # a process without a last batch would leave the others waiting for ever
            raise ValueError(
                "even_batches=False must be True: all processes take as many batches, and what only fills one up "
                "does not count; leave it out."
            )
        accelerator.dispatch_batches = False


# Transformers' own fields of a plain type, which it takes in any: `seed="3"` ends far away, in another's words.
_PLAIN = {bool, int, float, str, NoneType}
_TRANSFORMERS_OWN = {
    name: hint
    for name, hint in get_type_hints(TrainingArguments).items()
    if _PLAIN.issuperset(get_args(hint) or [hint]) and name != "fsdp"
}  # and fsdp=True is right, whatever its annotation says
MOST = 2**31 - 1  # of tokens, texts and rows


def check_finite(settings: Any, *names: str) -> None:
    """ValueError for the first of the named settings that is no finite number of at least 0."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} must be a finite number of at least 0: give another.")


def check_trained(args: TrainingArguments) -> None:
    """ValueError for transformers' numbers that no training can have, and that it takes all the same."""
    for name in ("seed", "data_seed"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < 2**32:
            raise ValueError(f"{name}={shown(value)} must be from 0 to {2**32 - 1}: give another.")
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= getattr(args, name) < 1:
            raise ValueError(f"{name}={getattr(args, name)} must be at least 0 and below 1: give such a number.")
    if args.max_steps <= 0 and not args.num_train_epochs > 0:
        raise ValueError(f"num_train_epochs={args.num_train_epochs} must be above 0: raise it, or give max_steps.")
    for name in ("logging_steps", "save_steps", "eval_steps"):
        value = getattr(args, name)
        if value is not None and value < 0:
            raise ValueError(f"{name}={value} must be above 0: give a number of steps, or a share of them below 1.")


def check_least(settings: Any, least: float, *names: str) -> None:
    """ValueError for the first of the named settings that is less than `least`, or too large; None is a default."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < least:
            raise ValueError(
                f"{name}={shown(value)} must be at least {least}: raise it, or leave it out for the default."
            )
        if value is not None and value > MOST:
            raise ValueError(f"{name}={shown(value)} must be at most {MOST}: lower it.")
