"""Arguments that the training commands share, and the run itself."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..base.checkpoints import tidy
from ..base.trainer import FamilyTrainer
from ..models.adapted import load_adapted
from ..models.kind import ModelSource
from .adapter_arguments import LoraArguments as LoraArguments


@dataclass
class DataArguments:
    """What to train on, and what to evaluate on."""

    train_data: str = field(metadata={"help": "Data file, folder or Hub id (user/name or user/name@revision)."})
    eval_data: str | None = field(default=None, metadata={"help": "The same for evaluation."})

    def source(self) -> Any:
        """What the Trainer trains on."""
        return self.train_data


@dataclass
class MixtureDataArguments:
    """One or several data sets to train on, and what to evaluate on."""

    train_data: list[str] = field(
        metadata={
            "help": "Data file, folder (a data set a file) or Hub id (user/name or user/name@revision); several of "
            "them; or a .yaml file with a list of data sets (data, weight, type, group_size, ...: see DataSetEntry), "
            "which the config may hold, too."
        }
    )
    eval_data: str | None = field(default=None, metadata={"help": "Data file, folder or Hub id for evaluation."})

    def source(self) -> Any:
        """What the Trainer trains on; mappings come from a configuration file as JSON."""
        sources = [json.loads(one) if one.startswith("{") else one for one in self.train_data]
        return sources[0] if len(sources) == 1 else sources


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
    model_kwargs = {**model_kwargs, **lora.loading_keywords()}
    source: ModelSource = model
    if lora.adapter is not None:
        pins = {"base_revision": model_kwargs.pop("revision", None), "revision": lora.adapter_revision}
        source, model_kwargs = load_adapted(lora.adapter, model, is_trainable=True, **pins, **model_kwargs), {}
    trainer = trainer_class(
        source, args, data.source(), data.eval_data, peft_config=lora.peft_config(), model_kwargs=model_kwargs
    )
    checkpoint = args.resume_from_checkpoint
    if checkpoint == "last":
        if args.should_save:
            tidy(Path(str(args.output_dir)))
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
