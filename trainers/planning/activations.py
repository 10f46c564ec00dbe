"""What the backward pass needs of the forward pass, in bytes: off the model's own code on tensors without contents.

A row of S tokens keeps a S + b S^2 in each layer (b where an attention mask is kept), and as much again in another
measure outside the layers. One and two layers are run at three lengths under `FakeTensorMode`, which computes shapes
alone, and a and b are solved for; so a family's own activations, norms and adapters count as they are written.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.integrations import moe

from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM

from .build import body_of, has_plain_head, text_config_of
from .memory import kept_bytes
from .shapes import Rows, Shapes

LENGTHS = (32, 64, 128)


@dataclass(frozen=True)
class Kept:
    """Bytes as numbers of (1, S, S^2): of a layer, and outside the layers. The first does not grow with the rows."""

    layer: np.ndarray
    rest: np.ndarray
    layers: int

    def of(self, rows: tuple[Rows, ...], layers: int | None = None) -> float:
        """Of rows that are all kept; with `layers` of so many, and nothing else."""
        numbers = self.layer * self.layers + self.rest if layers is None else self.layer * layers
        grown = sum(one.count * (numbers[1] * one.length + numbers[2] * one.length**2) for one in rows)
        return float(numbers[0] + grown)


def kept_of(model: Any, bf16: bool, checkpointing: bool) -> Kept:
    """What the layers of a model keep of a row."""
    config, layers = text_config_of(model), text_config_of(model).num_hidden_layers
    positions = vars(config).get("max_position_embeddings") or LENGTHS[-1]
    lengths = LENGTHS if positions >= LENGTHS[-1] else tuple(positions - 2 + at for at in range(len(LENGTHS)))
    body = body_of(model)
    name = _layers_name(body, layers)
    depths = (1, 2) if name is not None and layers > 1 else (layers,)
    mask = not isinstance(model, SelfRetrievalLM)  # whose inputs are padded behind what is scored
    found = [_fit(_first_layers(body, name, depth), lengths, mask, bf16, checkpointing) for depth in depths]
    if len(found) == 1:
        return Kept(found[0] / layers, found[0] * 0, layers)
    return Kept(found[1] - found[0], 2 * found[0] - found[1], layers)


def head_bytes(model: Any, shapes: Shapes, plain: bool, gpus: int = 1) -> float:
    """What losses over the vocabulary keep; a bi-encoder's embeddings of all devices, and its queries' scores of them.

    Args:
        plain: see `has_plain_head`.
    """
    config = text_config_of(model)
    vocabulary, width, size = config.vocab_size, config.hidden_size, torch.finfo(model.dtype).bits // 8
    scored = sum(one.count * one.scored for one in shapes.at_once)
    if isinstance(model, SelfRetrievalLM):  # log-softmax in float32, and the states behind them
        return scored * (4 * vocabulary + size * width)
    if isinstance(model, LlaraForPreTraining):
        words = (
            shapes.rows[0].count * vocabulary * (4 * shapes.words + 2 * 9)
        )  # logits, their largest, log-softmax, set
        return scored * size * width + words + (4 * vocabulary * width if plain else 0)
    queries, passages = (one.count for one in shapes.rows)
    return 4 * (2 * queries * passages * gpus + (2 + gpus) * (queries + passages) * width)


def activation_bytes(
    model: Any, shapes: Shapes, bf16: bool, checkpointing: bool, gpus: int = 1, copies: bool = True
) -> int:
    """The most that is kept at one time; with checkpointing one layer's are there beside the layers' inputs.

    Args:
        gpus: devices whose passages serve a bi-encoder's queries as negatives.
        copies: with bf16, of the weights, as autocast makes and keeps them; `fsdp` casts the shares instead.
    """
    kept = kept_of(model, bf16, checkpointing)
    most = kept.of(shapes.at_once) - (0 if copies else kept.of(()))
    if checkpointing:
        whole = kept_of(model, bf16, False)
        most += max(whole.of((one,), layers=1) for one in shapes.at_once)
    return round(most + head_bytes(model, shapes, has_plain_head(model, bf16), gpus))


def _layers_name(body: nn.Module, layers: int) -> str | None:
    """The name of the list of layers, None where there is none."""
    lists = (name for name, one in body.named_modules() if isinstance(one, nn.ModuleList) and len(one) == layers)
    return next(lists, None)


def _first_layers(body: nn.Module, name: str | None, depth: int) -> Any:
    """A copy of the backbone with so many of its layers, which shares its parameters."""
    if name is None:
        return body
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


def _fit(body: Any, lengths: tuple[int, ...], mask: bool, bf16: bool, checkpointing: bool) -> np.ndarray:
    """The numbers of (1, S, S^2); ValueError for a backbone whose forward pass needs the contents of its tensors."""
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # of what is tried and fails
    dims = (4, 2) if mask else (0,)  # the mask that is made here; some families (OPT) take theirs of rows alone
    for number, dim in enumerate(dims, start=1):
        try:
            sizes = _sizes(body, lengths, dim, bf16, checkpointing)
            break
        except Exception as error:  # whatever a family's own code says of tensors without contents
            if number == len(dims):
                told = next(iter(str(error).splitlines()), type(error).__name__)
                raise ValueError(
                    f"A model of the kind {body.config.model_type} does not run without contents ({told}): plan one "
                    "of its size that does, such as a Llama."
                ) from error
    return np.linalg.solve([[1.0, length, length**2] for length in lengths], sizes)


def _sizes(body: Any, lengths: tuple[int, ...], mask_dims: int, bf16: bool, checkpointing: bool) -> list[int]:
    with FakeTensorMode(), _experts_in_any_dtype():
        there = _with_shapes(body)
        there.train()
        for part in there.modules():  # an expert at a time would mean to see which tokens are sent to it
            config: Any = getattr(part, "config", None)
            if hasattr(config, "_experts_implementation"):
                config._experts_implementation = "grouped_mm"
        if checkpointing:
            there.config.use_cache = False  # as it would be; without checkpointing no cache would mean a mask here
            _enable_checkpointing(there)
        return [_kept_of_row(there, length, mask_dims, bf16) for length in lengths]


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


def _enable_checkpointing(model: Any) -> None:
    with warnings.catch_warnings():  # of its new name, which transformers 5.20 does not have
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})


def _kept_of_row(there: Any, length: int, mask_dims: int, bf16: bool) -> int:
    ids = torch.zeros(1, length, dtype=torch.long)
    masks = {4: torch.ones(1, 1, length, length, dtype=torch.bool), 2: torch.ones_like(ids)}
    given = {"attention_mask": masks[mask_dims]} if mask_dims else {}

    def forward() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return there(input_ids=ids, **given)[0]

    return kept_bytes(there, forward)


def _with_shapes(body: Any) -> Any:
    """A copy of a model on "meta" whose tensors are of the CPU, for the mode that has no contents either."""
    memo: dict[int, Any] = {}
    for tensor in (*body.parameters(), *body.buffers()):
        plain = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        is_weight = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(plain, requires_grad=tensor.requires_grad) if is_weight else plain
    return copy.deepcopy(body, memo)
