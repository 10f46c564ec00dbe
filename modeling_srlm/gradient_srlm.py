"""Gradients with `reuse_states`: they go through what the block that is read has computed, and no further.

A block's chunks attend to each other's keys and values with their gradient; all that stands before them (sinks,
retrieved values, what is left of the window) is constant. So a block's graph does not grow with the text, and what it
gives is taken before the next block begins.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from .scoring_srlm import sum_dtype
from .store_srlm import States


class PassLayer(DynamicLayer):
    """One layer in one pass: states that are attended to, which stay as they are, and those that the pass adds.

    `past`: runs of keys and values (rows, heads, n, size), one behind the other.
    """

    def __init__(self, past: Sequence[States]):
        super().__init__()
        self.past = past
        self.dtype, self.device = past[0][0].dtype, past[0][0].device
        self.is_initialized = True
        self.added: Any = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All that the tokens of the pass attend to."""
        self.added = key_states, value_states
        keys, values = zip(*self.past, self.added, strict=True)
        return torch.cat(keys, dim=-2), torch.cat(values, dim=-2)

    def get_seq_length(self) -> int:
        """Tokens before those that are read."""
        return sum(keys.shape[-2] for keys, _ in self.past)


def run_pass(
    model: Any, inputs: dict[str, Any], past: Sequence[Sequence[States]], states: bool
) -> tuple[torch.Tensor, torch.Tensor | None, list[States]]:
    """(logits, last hidden states or None, the keys and values that were added) of a pass, all with their gradient.

    `past`: of each layer what `PassLayer` takes; only the first run may be written to later. With gradient
    checkpointing the backward pass computes the pass again.
    """
    recomputes = bool(_checkpointed(model))
    if recomputes:
        past = [[(keys.clone(), values.clone()), *runs] for (keys, values), *runs in past]

    def run() -> Any:
        layers: list[Any] = [PassLayer(runs) for runs in past]
        with without_checkpointing(model):
            output = model(**inputs, past_key_values=Cache(layers=layers), use_cache=True, output_hidden_states=states)
        return output.logits, output.hidden_states[-1] if states else None, [layer.added for layer in layers]

    return checkpoint(run, use_reentrant=False) if recomputes else run()


@contextmanager
def without_checkpointing(model: nn.Module) -> Iterator[None]:
    """Without the checkpoints of a backbone's layers, which take the cache away from a layer that trains."""
    switched = _checkpointed(model)
    for part in switched:
        part.gradient_checkpointing = False
    try:
        yield
    finally:
        for part in switched:
            part.gradient_checkpointing = True


def _checkpointed(model: nn.Module) -> list[Any]:
    """The parts of a model in training that transformers computes again in the backward pass."""
    return (
        [part for part in model.modules() if getattr(part, "gradient_checkpointing", False)] if model.training else []
    )


class LossSum:
    """The sum of many losses, of which `settle` exchanges the graph so far for the gradient that it gives.

    Args:
        model: whose weights train. settles: False keeps all graphs to the end. So does a hook on the gradient of a
            weight: it would see the gradient of each block, and then that of all.
    """

    def __init__(self, model: nn.Module, device: torch.device, settles: bool):
        self.settled = self.open = torch.zeros((), device=device, dtype=sum_dtype(device))
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        settles = settles and not any(weight._backward_hooks for weight in trained)
        self.weights = trained if settles else []
        self.gradients: list[torch.Tensor | None] = [None] * len(self.weights)

    def add(self, losses: torch.Tensor) -> None:
        """Adds losses (m,)."""
        self.open = self.open + losses.sum(dtype=self.open.dtype)

    def settle(self) -> None:
        """What was added is constant from here on but for its gradient, which is known."""
        if not (self.weights and self.open.requires_grad):
            return
        # As autograd does outside of autocast: a backward pass is not cast anew.
        with torch.autocast(self.open.device.type, enabled=False):
            found = torch.autograd.grad(self.open, self.weights, allow_unused=True)
        for number, (before, gradient) in enumerate(zip(self.gradients, found, strict=True)):
            if gradient is not None:
                self.gradients[number] = gradient if before is None else before + gradient
        self.settled, self.open = self.settled + self.open.detach(), torch.zeros_like(self.settled)

    def total(self) -> torch.Tensor:
        """The sum, in its own dtype."""
        if all(gradient is None for gradient in self.gradients):
            return self.settled + self.open
        return _Settled.apply(self.settled, self.gradients, *self.weights) + self.open


class _Settled(torch.autograd.Function):
    """A number whose gradient by some weights was taken before."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, gradients: list[torch.Tensor | None], *weights: torch.Tensor) -> Any:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> Any:
        return None, None, *(None if one is None else _scaled(one, scale) for one in ctx.gradients)


def _scaled(gradient: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    exact = torch.promote_types(gradient.dtype, torch.float32)
    return (gradient.to(exact) * scale.to(gradient.device, exact)).to(gradient.dtype)
