"""What the training commands share: arguments for data, and runs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..base.checkpoints import tidy
from ..base.early import check_checkpoint, check_push
from ..base.trainer import FamilyTrainer
from ..jobs.places import check_folder
from ..jobs.processes import count_processes, on_main_process
from ..models.adapted import load_adapted
from ..models.kind import LateModel, ModelSource
from .dry_run import describe, given_settings, own_settings
from .lora import LoraArguments


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


@dataclass
class RunArguments:
    """Whether to train at all."""

    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Check data, model and settings, print what would run, with its steps and its memory, and end: "
            "nothing is trained, no folder written, nothing sent."
        },
    )


def newest_checkpoint(run: Path) -> str | None:
    """The folder of the newest whole checkpoint in an output folder, of which the half-written ones are removed."""
    tidy(run)
    return get_last_checkpoint(str(run)) if run.is_dir() else None


def run_training(
    trainer_class: type[FamilyTrainer],
    model: str,
    model_kwargs: dict[str, Any],
    data: DataArguments | MixtureDataArguments,
    lora: LoraArguments,
    args: TrainingArguments,
    rows: str,
    dry_run: bool = False,
) -> FamilyTrainer:
    """Trains, evaluates if there is data for it, and saves the repo to `args.output_dir` (and to the Hub if asked).

    `rows` is what a row of the data is called. The first line that is printed says how many of them a step takes; of a
    data set with a batch size of its own it takes so many.

    With `dry_run` it prints what it would do, and does nothing of it.

    `resume_from_checkpoint` is a checkpoint's folder, or `last` for the newest one in the output folder, if any.
    """
    check_checkpoint(args.resume_from_checkpoint)
    if args.process_index == 0:
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        print(f"{count_processes(args.world_size)}, {step:,} {rows} a step", flush=True)
    if dry_run:
        return plan_training(trainer_class, model, model_kwargs, data, lora, args)
    with without_empty_folder(Path(str(args.output_dir))):
        return _train(make_trainer(trainer_class, model, model_kwargs, data, lora, args))


@contextmanager
def without_empty_folder(folder: Path) -> Iterator[None]:
    """A folder that was not there, and is empty when an error comes, is not left behind."""
    there = folder.exists()
    try:
        yield
    except BaseException:
        if not there:
            with suppress(OSError):  # it is not there, or not empty
                folder.rmdir()
        raise


def plan_training(
    trainer_class: type[FamilyTrainer],
    model: str,
    model_kwargs: dict[str, Any],
    data: DataArguments | MixtureDataArguments,
    lora: LoraArguments,
    args: Any,
) -> FamilyTrainer:
    """Prints what a training with these arguments would do. Nothing is written to `args.output_dir`, or sent."""
    check_folder("output_dir", args.output_dir)
    check_push(args)
    loading = {name: value for name, value in model_kwargs.items() if value not in (None, False)}
    given = {"model": model, **loading, **own_settings(data), **own_settings(lora), **given_settings(args)}
    args.push_to_hub, args.report_to = False, []
    with TemporaryDirectory() as folder:  # a Trainer makes its output folder
        args.output_dir = folder
        trainer = make_trainer(trainer_class, model, model_kwargs, data, lora, args)
        text = describe(trainer, given)
    if trainer.is_world_process_zero():
        print(text)
    return trainer


def make_trainer(
    trainer_class: type[FamilyTrainer],
    model: str,
    model_kwargs: dict[str, Any],
    data: DataArguments | MixtureDataArguments,
    lora: LoraArguments,
    args: TrainingArguments,
) -> FamilyTrainer:
    """The Trainer with its model and its data, all of it checked."""
    model_kwargs = {**model_kwargs, **lora.loading_keywords()}
    source: ModelSource | LateModel = model
    if lora.adapter is not None:
        pins = {"base_revision": model_kwargs.pop("revision", None), "revision": lora.adapter_revision}
        source = partial(load_adapted, lora.adapter, model, is_trainable=True, **pins, **model_kwargs)
        model_kwargs = {}
    return trainer_class(
        source, args, data.source(), data.eval_data, peft_config=lora.peft_config(), model_kwargs=model_kwargs
    )


def _train(trainer: FamilyTrainer) -> FamilyTrainer:
    args = trainer.args
    checkpoint = args.resume_from_checkpoint
    if checkpoint == "last":
        # One process looks: another would before the first one has made the folder, or brought a checkpoint back.
        checkpoint = on_main_process(PartialState(), lambda: newest_checkpoint(Path(str(args.output_dir))))
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
