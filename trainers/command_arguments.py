"""Arguments that the training commands share, and the run itself."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from .trainer_base import FamilyTrainer


@dataclass
class DataArguments:
    """What to train on, and what to evaluate on."""

    train_data: str = field(metadata={"help": "Data file, folder or Hub id."})
    eval_data: str | None = field(default=None, metadata={"help": "The same for evaluation."})

    def source(self) -> Any:
        """What the Trainer trains on."""
        return self.train_data


@dataclass
class MixtureDataArguments:
    """One or several data sets to train on, and what to evaluate on."""

    train_data: list[str] = field(
        metadata={
            "help": "Data file, folder (a data set a file) or Hub id; several of them; or a .yaml file with a list of "
            "data sets (data, weight, type, group_size, ...: see DataSetEntry), which the config may hold, too."
        }
    )
    eval_data: str | None = field(default=None, metadata={"help": "Data file, folder or Hub id for evaluation."})

    def source(self) -> Any:
        """What the Trainer trains on; mappings come from a configuration file as JSON."""
        sources = [json.loads(one) if one.startswith("{") else one for one in self.train_data]
        return sources[0] if len(sources) == 1 else sources


@dataclass
class LoraArguments:
    """A LoRA to train instead of the weights; without a rank the weights train."""

    lora_rank: int | None = field(default=None, metadata={"help": "Rank of the LoRA; none trains all weights."})
    lora_alpha: int = field(default=32, metadata={"help": "The LoRA's output is scaled by alpha / rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the LoRA."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the modules that get one; by default every linear layer."}
    )

    def peft_config(self) -> LoraConfig | None:
        """The configuration, None without a rank."""
        if self.lora_rank is None:
            return None
        return LoraConfig(
            r=self.lora_rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.lora_target_modules,
        )


def given(arguments: Any, *left_out: str) -> dict[str, Any]:
    """The fields of a dataclass that are not None, without those `left_out`."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    return {name: value for name, value in values.items() if value is not None and name not in left_out}


def run_training(
    trainer_class: type[FamilyTrainer],
    model: str,
    model_kwargs: dict[str, Any],
    data: DataArguments | MixtureDataArguments,
    lora: LoraArguments,
    args: TrainingArguments,
) -> FamilyTrainer:
    """Trains, evaluates if there is data for it, and saves the repo to `args.output_dir` (and to the Hub if asked).

    `resume_from_checkpoint` is a checkpoint's folder, or `last` for the newest one in the output folder, if any.
    """
    trainer = trainer_class(
        model, args, data.source(), data.eval_data, peft_config=lora.peft_config(), model_kwargs=model_kwargs
    )
    checkpoint = args.resume_from_checkpoint
    if checkpoint == "last":
        checkpoint = get_last_checkpoint(args.output_dir)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)
    if trainer.eval_dataset is not None:
        trainer.save_metrics("eval", trainer.evaluate())
    trainer.save_state()
    trainer.create_model_card()  # with the figures of the evaluation
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer
