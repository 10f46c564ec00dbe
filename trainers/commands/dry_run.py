"""What a training would do, for `--dry_run`: settings, data, steps, and the memory that it takes."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import yaml
from transformers import TrainingArguments
from transformers.trainer_pt_utils import find_batch_size

from modeling_biencoder.packing_biencoder import can_pack

from ..base.filling import first_rows
from ..base.trainer import FamilyTrainer
from ..biencoder.arguments import BiEncoderTrainingArguments
from ..planning.activations import activation_bytes as reckoned_bytes
from ..planning.build import system_of
from ..planning.memory import Memory, bytes_of_tensors, kept_bytes, optimizer_bytes, trained, weight_bytes
from ..planning.shapes import SHAPES

# On a CPU a forward pass of two rows that takes more operations than that (about a minute) is not tried.
MOST_OPERATIONS = 1e12
_SECRET = ("hub_token", "push_to_hub_token")


def describe(trainer: FamilyTrainer, settings: dict[str, Any]) -> str:
    """The plan as text, under the settings that were given. It reads a batch, and passes two rows of it forward."""
    batch, tokens = first_batch(trainer)
    parts = {
        "settings that differ from the defaults, as a file for --config takes them": yaml.safe_dump(
            settings, sort_keys=False
        ).splitlines(),
        "data": list(data_lines(trainer)),
        "run": list(run_lines(trainer, tokens)),
        "model": list(model_lines(trainer)),
        "memory of each process": [f"{name:<13}{value}" for name, value in memory(trainer, batch).lines()],
    }
    return "\n".join(line for title, lines in parts.items() for line in (title, *(f"  {one}" for one in lines)))


def given_settings(args: TrainingArguments) -> dict[str, Any]:
    """The training arguments that differ from their defaults, as a settings file takes them; no token."""
    values = args.to_dict()
    plain = type(args)(output_dir=str(args.output_dir), use_cpu=args.use_cpu).to_dict()
    names = [field.name for field in dataclasses.fields(args) if field.name in values and field.name not in _SECRET]
    return {name: values[name] for name in names if values[name] != plain[name] or name == "output_dir"}


def own_settings(arguments: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    return {
        field.name: values[field.name]
        for field in dataclasses.fields(arguments)
        if values[field.name] != field.default
    }


def data_lines(trainer: FamilyTrainer) -> Iterator[str]:
    """How many rows there are to train and to evaluate on."""
    yield f"training: {_rows(trainer.train_dataset)}"
    evaluated = trainer.eval_dataset
    for name, one in evaluated.items() if isinstance(evaluated, dict) else [("", evaluated)]:
        if one is not None:
            yield f"evaluation{f' ({name})' if name else ''}: {_rows(one)}"


def _rows(data: Any) -> str:
    return f"{len(data):,} rows" if hasattr(data, "__len__") else "a stream of rows"


def run_lines(trainer: FamilyTrainer, tokens: int) -> Iterator[str]:
    """How a step is made up, how many there are, and the first batch."""
    args: Any = trainer.args
    yield f"{args.train_batch_size} on a device, {args.gradient_accumulation_steps} micro-batches a step"
    values = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    epochs = "" if not hasattr(trainer.train_dataset, "__len__") else f", {steps_epochs(values)} epochs"
    yield f"{values[-1]:,} steps{epochs}"
    yield f"first batch: {tokens:,} tokens, padding included"


def steps_epochs(values: tuple[Any, ...]) -> str:
    """How many times the rows are seen, of what `set_initial_training_values` gives."""
    return f"{values[-1] / values[1]:.3g}"


def model_lines(trainer: FamilyTrainer) -> Iterator[str]:
    """What is trained, and how much of it."""
    model = trainer.model
    counts = [(one.numel(), one.requires_grad) for one in model.parameters()]
    every, trained = sum(count for count, _ in counts), sum(count for count, trains in counts if trains)
    yield f"{type(model).__name__} on {model.config.get_text_config().model_type}"
    yield f"{every:,} parameters, {trained:,} of them trained ({trained / every:.3g} of all)"
    yield f"on {next(model.parameters()).device.type}, weights in {str(model.dtype).removeprefix('torch.')}"


def first_batch(trainer: FamilyTrainer) -> tuple[dict[str, Any], int]:
    """The first training batch of this process on its device, and the tokens in it: what is wrong with rows shows."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    return batch, count_tokens(batch)


def count_tokens(batch: Any) -> int:
    """The entries of all `input_ids` in nested dictionaries."""
    if not isinstance(batch, Mapping):
        return 0
    return sum(one.numel() if name == "input_ids" else count_tokens(one) for name, one in batch.items())


def memory(trainer: FamilyTrainer, batch: dict[str, Any]) -> Memory:
    """Weights, gradients, what the optimizer keeps, and what is kept for the backward pass of this batch."""
    parameters = trained(trainer.model)
    return Memory(
        weights=weight_bytes(trainer.model),
        gradients=bytes_of_tensors(parameters),
        optimizer=optimizer_bytes(trainer.args, trainer.model, parameters),
        activations=activation_bytes(trainer, batch),
    )


def activation_bytes(trainer: FamilyTrainer, batch: dict[str, Any]) -> int:
    """What a backward pass of this batch needs of the forward pass: measured on two rows, scaled by tokens.

    Padding counts where it is read, which a bi-encoder on a CPU does not do.
    Of a batch that is embedded in parts (`sub_batch_size`) those of one part, as they are made again for the backward
    pass. Where the two rows take too long on a CPU, that of the longest batch by the formulas of `planning`.
    """
    args, model, count = trainer.args, trainer.model, find_batch_size(batch)
    rows = _unpadded(first_rows(batch, min(count, 2), count))
    operations = 2 * sum(one.numel() for one in model.parameters()) * count_tokens(rows)
    if args.device.type == "cpu" and operations > MOST_OPERATIONS:
        return reckoned_bytes(
            model, SHAPES[system_of(model)](model.config, args, args), args.bf16, args.gradient_checkpointing
        )
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    share, part = 1.0, None
    if isinstance(args, BiEncoderTrainingArguments) and args.sub_batch_size is not None:
        part = args.sub_batch_size
        texts = sum(len(batch[side]["input_ids"]) for side in ("query", "passage"))
        share, args.sub_batch_size = min(part / texts, 1.0), None
    kept = _kept_for_backward(trainer, rows)
    if part is not None:
        args.sub_batch_size = part
    return round(kept * share * _tokens_read(model, batch) / max(count_tokens(rows), 1))


def _unpadded(rows: dict[str, Any]) -> dict[str, Any]:
    """A bi-encoder's rows as if they were all as long as the longest one."""
    full: dict[str, Any] = {
        side: {**rows[side], "attention_mask": torch.ones_like(rows[side]["attention_mask"])}
        for side in ("query", "passage")
        if side in rows
    }
    return {**rows, **full}


def _tokens_read(model: Any, batch: dict[str, Any]) -> int:
    """Tokens that go through the backbone."""
    packed = [
        batch[side]
        for side in ("query", "passage")
        if side in batch and can_pack(model, {name: batch[side][name] for name in ("input_ids", "attention_mask")})
    ]
    return count_tokens(batch) - sum(int((one["attention_mask"] == 0).sum()) for one in packed)


def _kept_for_backward(trainer: FamilyTrainer, rows: dict[str, Any]) -> int:
    """Bytes of the tensors that a forward pass keeps, without weights."""
    trainer.model.train()
    with trainer.compute_loss_context_manager():
        return kept_bytes(trainer.model, lambda: trainer.compute_loss(trainer.model, rows))
