"""From token states to one vector for each text: pooling for any padding, dense layers, truncation, normalisation."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .checks_biencoder import check_bool, check_choice, check_keywords, check_positive_int

POOLINGS = ("last_token", "cls", "mean", "mean_last_k")
_DENSE_KEYS = ("in_features", "out_features", "bias", "activation")
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")  # by their names in torch.nn


def drop_pooler(backbone: nn.Module) -> None:
    """Take away BERT's pooler: it serves next-sentence prediction, and DDP waits for gradients it never gets.

    Of a backbone whose code cannot do without, it stays and does not train.
    """
    pooler = dict(backbone.named_children()).get("pooler")
    if pooler is None:
        return
    if "add_pooling_layer" in inspect.signature(type(backbone).__init__).parameters:
        backbone.register_module("pooler", None)
    else:
        pooler.requires_grad_(False)


def pack_left(tensors: dict[str, torch.Tensor], attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Move the real tokens of every row to its start, in their order, and the padding to its end.

    A backbone that counts positions from the row's start (GPT-2, OPT, BERT) then gives a text the same states
    whichever side was padded, and whatever the batch.

    Args:
        tensors: name -> (batch, length) tensor.
        attention_mask: (batch, length), 0 at padding.
    """
    order = (attention_mask == 0).to(torch.uint8).argsort(dim=1, stable=True)  # (batch, length)
    return {name: tensor.gather(1, order) for name, tensor in tensors.items()}


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: str, k: int = 8) -> torch.Tensor:
    """One vector for each row, at least float32, from its real tokens only; padding may lie on either side.

    Args:
        hidden: (batch, length, width) last hidden states.
        attention_mask: (batch, length), 0 at padding, at least one other value in each row.
        pooling: `last_token`, `cls` (first token), `mean`, or `mean_last_k` (fewer than `k` tokens: all of them).

    Returns (batch, width).
    """
    real = attention_mask != 0
    from_start = real.cumsum(dim=1)  # 1 at the first real token
    if pooling == "cls":
        return _mean(hidden, real & (from_start == 1))
    if pooling == "mean":
        return _mean(hidden, real)
    from_end = from_start[:, -1:] - from_start  # 0 at the last real token
    most = 1 if pooling == "last_token" else min(k, hidden.shape[1])  # a larger number might not fit int64
    return _mean(hidden, real & (from_end < most))


def _mean(hidden: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    dtype = torch.promote_types(hidden.dtype, torch.float32)  # half precision would round sums and scores
    # where, not a product: a padding state may be NaN
    total = hidden.where(chosen[..., None], 0).sum(dim=1, dtype=dtype)
    return total / chosen.sum(dim=1, keepdim=True)


def check_dense(dense: object, width: int) -> None:
    """Raise TypeError or ValueError unless `dense` is None or a list of layers, each as wide as what comes before."""
    if not isinstance(dense, list | tuple | None):
        raise TypeError(f"dense={dense!r} must be None or a list of layers, each {{'in_features': {width}, ...}}.")
    for layer in dense or ():
        if not isinstance(layer, Mapping):
            raise TypeError(f"dense holds {layer!r}, which must be a dict such as {{'in_features': {width}, ...}}.")
        check_keywords(layer, _DENSE_KEYS, "dense")
        for name in ("in_features", "out_features"):
            check_positive_int(f"{name} of dense", layer.get(name), "give the width")
        check_bool("bias of dense", layer.get("bias", True))
        check_choice("activation of dense", layer.get("activation", "Identity"), ACTIVATIONS)
        if layer["in_features"] != width:
            raise ValueError(f"dense: in_features={layer['in_features']} must be the width before it, {width}.")
        width = layer["out_features"]


def check_own_dense(dense: Any, own: list[dict[str, Any]] | None) -> None:
    """ValueError for layers given to a model that has others of its `own`, whose trained weights they would drop."""
    if not dense or not own:
        return
    check_dense(dense, own[0]["in_features"])
    full = {"bias": True, "activation": "Identity"}
    if [{**full, **layer} for layer in dense] != [{**full, **layer} for layer in own]:
        raise ValueError(f"dense={dense} is given, and the model has trained layers {own}: leave dense out.")


class DenseLayer(nn.Module):
    """A linear layer behind the pooling, and its activation; as sentence-transformers' `Dense`."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, activation: str = "Identity") -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation = getattr(nn, activation)()

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """(batch, in_features) -> (batch, out_features), in the layer's own precision."""
        return self.activation(self.linear(pooled.to(self.linear.weight.dtype)))


def dense_layers(settings: Iterable[Mapping[str, Any]] | None) -> nn.ModuleList | None:
    """The layers that a configuration's `dense` asks for, with random weights."""
    return nn.ModuleList(DenseLayer(**layer) for layer in settings) if settings else None


def project(pooled: torch.Tensor, layers: nn.ModuleList | None) -> torch.Tensor:
    """(batch, width) vectors through all layers; in the precision that they came in."""
    projected = pooled
    for layer in layers or ():
        projected = layer(projected)
    return projected.to(pooled.device, pooled.dtype)


def finish(pooled: torch.Tensor, normalize: bool, truncate_dim: int | None = None) -> torch.Tensor:
    """Cut (batch, width) vectors to their first `truncate_dim` numbers, then bring them to unit length."""
    pooled = pooled[:, :truncate_dim]
    return F.normalize(pooled, dim=-1) if normalize else pooled
