"""From token states to one vector for each text: pooling for any padding, truncation and normalisation."""

import torch
from torch import nn
from torch.nn import functional as F

POOLINGS = ("last_token", "cls", "mean", "mean_last_k")


def drop_pooler(backbone: nn.Module) -> None:
    """Take away BERT's pooler: it serves next-sentence prediction, and DDP waits for gradients it never gets."""
    if "pooler" in dict(backbone.named_children()):
        backbone.register_module("pooler", None)


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


def finish(pooled: torch.Tensor, normalize: bool, truncate_dim: int | None = None) -> torch.Tensor:
    """Cut (batch, width) vectors to their first `truncate_dim` numbers, then bring them to unit length."""
    pooled = pooled[:, :truncate_dim]
    return F.normalize(pooled, dim=-1) if normalize else pooled
