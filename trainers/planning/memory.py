"""Bytes of a training on one device: weights, gradients, what the optimizer keeps, what the backward pass needs.

What `--dry_run` says of a training that is about to run, and `lookback plan` of one that is thought of, is counted
here: of real tensors or of such without contents, in the same way.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from .units import in_units


@dataclasses.dataclass
class Memory:
    """Bytes on one device; None is unknown."""

    weights: int
    gradients: int
    optimizer: int | None
    activations: int | None

    @property
    def together(self) -> int:
        """All that is known."""
        return sum(getattr(self, field.name) or 0 for field in dataclasses.fields(self))

    def lines(self) -> Iterator[tuple[str, str]]:
        """What and how much, and all of it together."""
        known = [getattr(self, field.name) for field in dataclasses.fields(self)]
        for field, value in zip(dataclasses.fields(self), known, strict=True):
            yield field.name, "unknown" if value is None else in_units(value)
        whole = in_units(self.together)
        yield "together", f"about {whole}" if None not in known else f"at least {whole}"


def bytes_of_tensors(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of all of them."""
    return sum(one.numel() * one.element_size() for one in tensors)


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that train."""
    return [one for one in model.parameters() if one.requires_grad]


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers; the gradients take those of the trained parameters alone."""
    return bytes_of_tensors((*model.parameters(), *model.buffers()))


def optimizer_bytes(args: TrainingArguments, model: Any, parameters: list[torch.nn.Parameter]) -> int | None:
    """What the optimizer of `args` keeps of `parameters` after a step, tried on tensors without contents.

    None for one that takes no such.
    """
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
        settings.pop("fused", None)  # takes tensors of a device alone, and keeps the same
        copies = [torch.nn.Parameter(torch.empty(one.shape, dtype=one.dtype, device="meta")) for one in parameters]
        for one in copies:
            one.grad = torch.empty_like(one)
        optimizer = kind(copies, **settings)
        optimizer.step()
    except Exception:  # whatever an optimizer of another package says of tensors without contents
        return None
    kept = [value for state in optimizer.state.values() for value in state.values()]
    return bytes_of_tensors(value for value in kept if isinstance(value, torch.Tensor))


def kept_bytes(model: torch.nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes of the tensors that `forward` keeps for the backward pass, each storage once, without the weights."""
    own = {storage_of(one) for one in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (storage := storage_of(tensor)) not in own:
            kept[storage] = tensor.untyped_storage().nbytes()
        return tensor  # which lives as long as the result: no other gets its place

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    return sum(kept.values())


def storage_of(tensor: torch.Tensor) -> int:
    """What names a storage: tensors without contents have no address."""
    return tensor.untyped_storage()._cdata
