"""Embedding a batch in parts: without its padding, or in the memory of one part.

The latter computes each part again when its gradient is: the gradient cache of arXiv:2101.06983, by torch's own
checkpointing. Of each part only the embeddings are kept, and the backward pass runs it again, with the random state
(dropout) and autocast of the first time. The gradient is that of the whole batch; memory holds the activations of one
part. As all parts are one graph, DDP, FSDP, adapters and gradient checkpointing inside the backbone see nothing but a
model that runs several times.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from .checks_biencoder import check_positive_int
from .gather_biencoder import gather_sizes, is_distributed
from .pooling_biencoder import pack_left
from .prompting_biencoder import CPU_TOKENS, split_by_tokens

Embed = Callable[..., torch.Tensor]


def embed_texts(
    embed: Embed,
    tokens: Mapping[str, Any],
    keep_last: bool,
    size: int | None,
    backbone: Mapping[str, Any],
    sharded: bool = False,
) -> torch.Tensor:
    """(rows, d) embeddings of the rows of `tokens`.

    With a `size` in parts of as many rows (see `embed_in_parts`). Without one all at once; but on a CPU more than
    `CPU_TOKENS` in parts of as many, rows of like length together: not every family is read without padding, and the
    states of a part stay in the cache.

    Args:
        backbone: further keywords of the backbone; those of (rows, length) go in parts as well.
        sharded: all processes take part in each call (FSDP): they make as many, whatever rows they have.
    """
    ids = tokens["input_ids"]
    backbone = for_each_row(backbone, ids)
    given = [value for value in (*tokens.values(), *backbone.values()) if isinstance(value, torch.Tensor)]
    whole = sharded or ids.device.type != "cpu" or ids.numel() <= CPU_TOKENS
    if size is None and (whole or any(value.shape != ids.shape for value in given)):
        return embed(**tokens, **backbone)
    if size is not None:
        check_positive_int("sub_batch_size", size, "give the number of texts to embed at a time")
    mask = tokens.get("attention_mask")
    rows = {**tokens, "attention_mask": torch.ones_like(ids) if mask is None else mask}
    rows |= {name: value for name, value in backbone.items() if shape_of(value) == ids.shape}
    rest = {name: value for name, value in backbone.items() if name not in rows}
    if size is not None and sharded and is_distributed():
        number = max(gather_sizes(math.ceil(len(ids) / size), ids.device))
        size = math.ceil(len(ids) / number)
        return embed_in_parts(partial(embed, **rest), rows, size, keep_last, number)
    return embed_in_parts(partial(embed, **rest), rows, size, keep_last)


def for_each_row(keywords: Mapping[str, Any], ids: torch.Tensor) -> dict[str, Any]:
    """The keywords, those of (1, length) that are the same for all rows written out for each."""
    one = (1, *ids.shape[1:])
    return {name: value.expand(ids.shape) if shape_of(value) == one else value for name, value in keywords.items()}


def shape_of(value: object) -> torch.Size | None:
    """The shape of a tensor, None for what is none."""
    return value.shape if isinstance(value, torch.Tensor) else None


def embed_in_parts(
    embed: Embed, tokens: Mapping[str, torch.Tensor], size: int | None, keep_last: bool, number: int = 0
) -> torch.Tensor:
    """(rows, d) embeddings of the rows of `tokens`, `size` at a time, rows of like length together.

    Args:
        embed: keyword tensors (part, length) -> (part, d).
        tokens: `input_ids`, `attention_mask` and others of (rows, length), padded on either side.
        size: rows embedded at a time; it need not divide the number of rows. None: as many as `CPU_TOKENS` has room
            for, all of whose activations are kept.
        keep_last: keep the activations of the last part, as the backward pass needs them first.
        number: of calls of `embed` at least; those beyond the parts get the last one again, and count for nothing.
    """
    parts, order = split_rows(tokens, size)
    parts += parts[-1:] * (number - len(parts))
    last = len(parts) - 1
    embeddings = [
        _run(embed, part, again=size is not None and torch.is_grad_enabled() and not (keep_last and number == last))
        for number, part in enumerate(parts)
    ]
    return torch.cat(embeddings)[: len(order)][order.argsort()]


def split_rows(
    tokens: Mapping[str, torch.Tensor], size: int | None
) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
    """(parts, each as long as its longest row, shorter rows first; (rows,) the rows in that order).

    A part has `size` rows; without a `size` at most `CPU_TOKENS` tokens, or one row.
    """
    mask = tokens["attention_mask"]
    lengths = (mask != 0).sum(dim=1)
    packed = pack_left(dict(tokens), mask)
    if size is None:
        split = split_by_tokens([range(length) for length in lengths.tolist()], CPU_TOKENS)
        numbers = [torch.tensor(part[::-1]) for part in reversed(split)]
    else:
        numbers = list(lengths.argsort(stable=True).split(size))
    parts = [{name: tensor[rows, : int(lengths[rows].max())] for name, tensor in packed.items()} for rows in numbers]
    return parts, torch.cat(numbers)


def _run(embed: Embed, part: dict[str, torch.Tensor], again: bool) -> torch.Tensor:
    if not again:
        return embed(**part)

    def run(*tensors: Any) -> torch.Tensor:
        return embed(**dict(zip(part, tensors, strict=True)))

    return checkpoint(run, *part.values(), use_reentrant=False)
