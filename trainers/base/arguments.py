"""What the training arguments of the three methods share: transformers' own, for rows that are texts."""

import math
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hub_cards.travelling.checks import check_fields, shown

from ..jobs.places import check_repo_id
from .options import SETTINGS, check_packages, check_settings


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
        super().__post_init__()
        check_settings(self, SETTINGS)
        check_least(self, 1, "per_device_train_batch_size", "per_device_eval_batch_size")
        check_least(self, 1, "gradient_accumulation_steps")
        check_least(self, 0, "dataloader_num_workers")
        check_finite(self, "learning_rate", "max_grad_norm", "weight_decay", "neftune_noise_alpha")
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
        accelerator.dispatch_batches = False


MOST = 2**31 - 1  # of tokens, texts and rows


def check_finite(settings: Any, *names: str) -> None:
    """ValueError for the first of the named settings that is no finite number of at least 0."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} must be a finite number of at least 0: give another.")


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
