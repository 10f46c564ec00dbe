"""A backbone's own code on tensors without contents (`FakeTensorMode`), which computes shapes alone.

So a family's own activations, norms, experts, caches and adapters count as they are written, and no name of a setting
is looked up. As few layers are run as there are kinds of them.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.integrations import moe

LENGTHS = (32, 64, 128)

# What is looked for in a run: of a backbone without contents and the inputs of its `forward`.
Measure = Callable[[Any, dict[str, Any]], Any]


def per_length(body: Any, measure: Measure, mask: bool, prepare: Callable[[Any], None] | None = None) -> np.ndarray:
    """What rows of S tokens come to as numbers of (1, S, S^2), (3, ...): run at three lengths and solved for.

    Args:
        measure: a number, or several.
        prepare: called with the backbone without contents before it is run, in training and without checkpointing.
    """
    positions = vars(body.config.get_text_config()).get("max_position_embeddings") or LENGTHS[-1]
    lengths = LENGTHS if positions >= LENGTHS[-1] else tuple(positions - 2 + at for at in range(len(LENGTHS)))
    found = run(body, lengths, measure, mask, prepare)
    return np.linalg.solve([[1.0, length, length**2] for length in lengths], np.array(found, dtype=float))


def run(
    body: Any, lengths: tuple[int, ...], measure: Measure, mask: bool, prepare: Callable[[Any], None] | None = None
) -> list[Any]:
    """`measure` of a row of each length; ValueError for a backbone that needs the contents of its tensors."""
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # of what is tried and fails
    dims = (4, 2) if mask else (0,)  # the mask that is made here; some families (OPT) take theirs of rows alone
    for number, dim in enumerate(dims, start=1):
        try:
            with contentless(body) as there:
                there.train()
                for part in there.modules():
                    if hasattr(part, "gradient_checkpointing"):
                        part.gradient_checkpointing = False
                if prepare is not None:
                    prepare(there)
                return [measure(there, _row(length, dim)) for length in lengths]
        except Exception as error:  # whatever a family's own code says of tensors without contents
            if number == len(dims):
                told = next(iter(str(error).splitlines()), type(error).__name__)
                raise ValueError(
                    f"A model of the kind {body.config.model_type} does not run without contents ({told}): plan one "
                    "of its size that does, such as a Llama."
                ) from error
    raise AssertionError("a row has a mask or none")


def by_layers(body: Any, measured: Callable[[Any], np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """(what the whole backbone comes to, what a layer comes to, of each kind of layers).

    Layers whose parameters have the same shapes come to the same: of Llama two are run, of DeepSeek-V3, which begins
    with three that have no experts, four.
    """
    layers, name = layers_of(body), layers_name(body)
    if name is None or len(layers) < 2:
        whole = measured(body)
        return whole, [whole / body.config.get_text_config().num_hidden_layers]
    first = cache(lambda depth: measured(_first_layers(body, name, depth)))
    kinds = [_kind(one) for one in layers]
    found: dict[Any, np.ndarray] = {}
    for at, kind in enumerate(kinds[1:], start=1):
        if kind not in found:
            found[kind] = first(at + 1) - first(at)
    return first(1) + sum(found[kind] for kind in kinds[1:]), list(found.values())


def layers_name(body: Any) -> str | None:
    """The name of the list of layers, None where there is none."""
    count = body.config.get_text_config().num_hidden_layers
    lists = (name for name, one in body.named_modules() if isinstance(one, nn.ModuleList) and len(one) == count)
    return next(lists, None)


def layers_of(body: Any) -> list[nn.Module]:
    """The layers, none where there is no list of them."""
    name = layers_name(body)
    return [] if name is None else list(body.get_submodule(name).children())


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    return tuple((name, one.shape, one.requires_grad) for name, one in layer.named_parameters())


def _first_layers(body: nn.Module, name: str, depth: int) -> Any:
    """A copy of the backbone with so many of its layers, which shares its parameters."""
    part: Any = copy.copy(body)
    parent, _, last = name.rpartition(".")
    holder = part
    holder._modules = dict(holder._modules)
    for step in parent.split(".") if parent else ():
        inner = copy.copy(holder._modules[step])
        holder._modules[step], holder = inner, inner
        holder._modules = dict(holder._modules)
    holder._modules[last] = nn.ModuleList(list(holder._modules[last])[:depth])
    part.config = copy.copy(part.config)
    part.config.num_hidden_layers = depth
    return part


@contextmanager
def contentless(model: Any) -> Iterator[Any]:
    """A copy of a model whose tensors have no contents, all experts at once.

    One expert at a time would mean to see which tokens are sent to it.
    """
    with FakeTensorMode(), _experts_in_any_dtype():
        there = _with_shapes(model)
        for part in there.modules():
            config: Any = getattr(part, "config", None)
            if hasattr(config, "_experts_implementation"):
                config._experts_implementation = "grouped_mm"
        yield there


def _with_shapes(body: Any) -> Any:
    """A copy of a model on "meta" whose tensors are of the CPU, for the mode that has no contents either."""
    memo: dict[int, Any] = {}
    for tensor in (*body.parameters(), *body.buffers()):
        plain = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        is_weight = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(plain, requires_grad=tensor.requires_grad) if is_weight else plain
    return copy.deepcopy(body, memo)


def _row(length: int, mask_dims: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros(1, length, dtype=torch.long)
    masks = {4: torch.ones(1, 1, length, length, dtype=torch.bool), 2: torch.ones_like(ids)}
    return {"input_ids": ids, **({"attention_mask": masks[mask_dims]} if mask_dims else {})}


@contextmanager
def _experts_in_any_dtype() -> Iterator[None]:
    """Experts by transformers' own operation, which keeps what torch's does: that has no shapes for float32 alone."""
    known = getattr(moe, "_can_use_grouped_mm", None)
    if known is None:
        yield
        return
    moe._can_use_grouped_mm = lambda *_, **__: False
    try:
        yield
    finally:
        moe._can_use_grouped_mm = known
