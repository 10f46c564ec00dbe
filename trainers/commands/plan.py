"""What a training would do, for `--dry_run`: settings, data, steps, and the memory that it takes."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import yaml
from transformers import TrainingArguments
from transformers.trainer_pt_utils import find_batch_size

from ..base.components import first_rows
from ..base.trainer import FamilyTrainer
from ..biencoder.arguments import BiEncoderTrainingArguments

# On a CPU a forward pass of two rows that takes more operations than that (about a minute) is not tried.
MOST_OPERATIONS = 1e12
_SECRET = ("hub_token", "push_to_hub_token")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclasses.dataclass
class Memory:
    """Bytes on one device, before anything is shared out among several; None is unknown."""

    weights: int
    gradients: int
    optimizer: int | None
    activations: int | None

    def lines(self) -> Iterator[tuple[str, str]]:
        """What and how much, and all of it together."""
        known = [getattr(self, field.name) for field in dataclasses.fields(self)]
        for field, value in zip(dataclasses.fields(self), known, strict=True):
            yield field.name, "unknown" if value is None else in_units(value)
        whole = in_units(sum(value or 0 for value in known))
        yield "together", f"about {whole}" if None not in known else f"at least {whole}"


def in_units(size: int) -> str:
    """A number of bytes to read.

    >>> in_units(0), in_units(1536), in_units(3 * 2**30)
    ('0 B', '1.5 KiB', '3.0 GiB')
    """
    power = min(int(math.log(size, 1024)), len(_UNITS) - 1) if size else 0
    return f"{size / 1024**power:.1f} {_UNITS[power]}" if power else f"{size} B"


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
    model = trainer.model
    trained = [one for one in model.parameters() if one.requires_grad]
    return Memory(
        weights=sum(_bytes(one) for one in (*model.parameters(), *model.buffers())),
        gradients=sum(_bytes(one) for one in trained),
        optimizer=optimizer_bytes(trainer, trained),
        activations=activation_bytes(trainer, batch),
    )


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def optimizer_bytes(trainer: FamilyTrainer, trained: list[torch.nn.Parameter]) -> int | None:
    """What the optimizer keeps after a step, tried on tensors without contents; None for one that takes no such."""
    try:
        kind, settings = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
        settings.pop("fused", None)  # takes tensors of a device alone, and keeps the same
        copies = [torch.nn.Parameter(torch.empty_like(one, device="meta")) for one in trained]
        for one in copies:
            one.grad = torch.empty_like(one)
        optimizer = kind(copies, **settings)
        optimizer.step()
    except Exception:  # whatever an optimizer of another package says of tensors without contents
        return None
    kept = [value for state in optimizer.state.values() for value in state.values()]
    return sum(_bytes(value) for value in kept if isinstance(value, torch.Tensor))


def activation_bytes(trainer: FamilyTrainer, batch: dict[str, Any]) -> int | None:
    """What a backward pass of this batch needs of the forward pass: measured on two rows, scaled by tokens.

    Of a batch that is embedded in parts (`sub_batch_size`) those of one part, as they are made again for the backward
    pass. None where the two rows take too long on a CPU.
    """
    args, model, count = trainer.args, trainer.model, find_batch_size(batch)
    rows = first_rows(batch, min(count, 2), count)
    operations = 2 * sum(one.numel() for one in model.parameters()) * count_tokens(rows)
    if args.device.type == "cpu" and operations > MOST_OPERATIONS:
        return None
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
    return round(kept * share * count_tokens(batch) / max(count_tokens(rows), 1))


def _kept_for_backward(trainer: FamilyTrainer, rows: dict[str, Any]) -> int:
    """Bytes of the tensors that a forward pass keeps, without weights."""
    own = {one.untyped_storage().data_ptr() for one in (*trainer.model.parameters(), *trainer.model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor  # which lives as long as the loss: no other gets its place

    trainer.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, rows)
    del loss
    return sum(kept.values())
