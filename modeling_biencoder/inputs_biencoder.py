"""Checks of what a caller hands in beside settings: lengths, widths, and tensors, before any compute."""

from collections.abc import Sequence
from typing import Any

import torch

from .checks_biencoder import check_mask, check_positive_int
from .placement_biencoder import input_device, is_dispatched

_INTEGER_TYPES = (torch.int64, torch.int32)


def check_max_length(what: str, value: object, positions: int | None) -> None:
    """Raise TypeError or ValueError unless `value` is a whole number of at least 1, and no more than `positions`."""
    check_positive_int(what, value)
    if positions is not None and value > positions:  # type: ignore[operator]  # a whole number
        raise ValueError(
            f"{what}={value} is longer than the backbone's {positions} positions: use at most {positions}."
        )


def check_truncate_dim(truncate_dim: int | None, embedding_dims: Sequence[int] | None, width: int) -> None:
    """Raise unless `truncate_dim` is None, one of the trained widths, or (none were trained) from 1 to `width`.

    The full `width` is always trained.
    """
    if truncate_dim is None:
        return
    check_positive_int("truncate_dim", truncate_dim)
    if truncate_dim == width:
        return
    if embedding_dims is not None and truncate_dim not in embedding_dims:
        raise ValueError(f"truncate_dim={truncate_dim} was not trained: use one of embedding_dims={embedding_dims}.")
    if truncate_dim > width:
        raise ValueError(f"truncate_dim={truncate_dim} is wider than the embeddings: use at most {width}.")


def check_tokens(input_ids: object, attention_mask: object, model: Any, name: str = "") -> None:
    """Raise unless `input_ids` is (batch, length) integers on the model's device, with a mask of that shape or None.

    Every row needs at least one token whose mask is not 0.
    """
    if not isinstance(input_ids, torch.Tensor):
        raise TypeError(f"{name}input_ids must be a tensor (batch, length), not {type(input_ids).__name__}.")
    if input_ids.dtype not in _INTEGER_TYPES:
        raise TypeError(f"{name}input_ids has dtype {input_ids.dtype}: token ids must be torch.int64.")
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise ValueError(
            f"{name}input_ids has shape {tuple(input_ids.shape)}: it must be (batch, length), both at least 1."
        )
    _check_device(f"{name}input_ids", input_ids, model)
    weight = model.get_input_embeddings().weight
    _check_range(f"{name}input_ids", input_ids, len(weight) if weight.dim() == 2 else None, "the vocabulary")
    if attention_mask is None:
        return
    if not isinstance(attention_mask, torch.Tensor):
        raise TypeError(f"{name}attention_mask must be a tensor or None, not {type(attention_mask).__name__}.")
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"{name}attention_mask has shape {tuple(attention_mask.shape)}: it must be that of input_ids, "
            f"{tuple(input_ids.shape)}."
        )
    _check_device(f"{name}attention_mask", attention_mask, model)
    check_mask(f"{name}attention_mask", attention_mask)
    empty = (attention_mask == 0).all(dim=1)
    if empty.any():
        raise ValueError(
            f"{name}attention_mask is 0 over the whole of row {int(empty.nonzero()[0])}: each row needs a token. "
            "Leave the row out, or give it one token (encode gives an empty text the end-of-sequence token)."
        )


def check_embed(
    input_ids: Any, attention_mask: object, position_ids: Any, truncate_dim: int | None, model: Any
) -> None:
    """Raise as `check_tokens` and `check_truncate_dim` do, and for positions that the backbone does not have."""
    config = model.config
    check_tokens(input_ids, attention_mask, model)
    check_truncate_dim(truncate_dim, config.embedding_dims, config.hidden_size)
    if config.max_positions is not None and input_ids.shape[1] > config.max_positions:
        raise ValueError(
            f"input_ids has rows of {input_ids.shape[1]} tokens, and the backbone {config.max_positions} positions: "
            "cut them (tokenize cuts a text at config.max_length)."
        )
    if position_ids is not None:
        _check_positions(position_ids, input_ids)
        _check_device("position_ids", position_ids, model)
        limit = getattr(config.text_config.get_text_config(), "max_position_embeddings", None)
        _check_range("position_ids", position_ids, limit, "the backbone's positions")


def _check_positions(position_ids: Any, input_ids: torch.Tensor) -> None:
    if not isinstance(position_ids, torch.Tensor) or position_ids.dtype not in _INTEGER_TYPES:
        found = getattr(position_ids, "dtype", None) or type(position_ids).__name__
        raise TypeError(f"position_ids must be a tensor of torch.int64, one position a token, not {found}.")
    if position_ids.shape not in (input_ids.shape, (1, input_ids.shape[1])):
        raise ValueError(
            f"position_ids has shape {tuple(position_ids.shape)}: it must be that of input_ids, "
            f"{tuple(input_ids.shape)}."
        )


def _check_range(what: str, ids: torch.Tensor, limit: int | None, whose: str) -> None:
    if limit is None or ids.device.type == "meta":  # None: the weights are held in parts, elsewhere
        return
    least, most = (int(number) for number in ids.aminmax())
    if least < 0 or most >= limit:
        raise ValueError(
            f"{what} holds {least if least < 0 else most}, which is not in 0..{limit - 1}, {whose}: make them with "
            "the model's own tokenizer."
        )


def _check_device(what: str, tensor: torch.Tensor, model: Any) -> None:
    if tensor.device.type != "meta" and is_dispatched(model):  # then accelerate moves it
        return
    if tensor.device != (device := input_device(model)):
        raise ValueError(f"{what} is on {tensor.device}, the model on {device}: move one with .to(...).")


def alike(a: Any, b: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of vectors (n, d) and (m, d) in the finer of their dtypes; TypeError or ValueError for others."""
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"{name} must be a tensor (n, d), not {type(value).__name__}: use torch.as_tensor({name})."
            )
        if not value.is_floating_point():
            raise TypeError(f"{name} has dtype {value.dtype}: vectors must be floating point, use {name}.float().")
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a {tuple(a.shape)} and b {tuple(b.shape)} must be (n, d) and (m, d) of one width d: encode both alike."
        )
    if a.device != b.device:
        raise ValueError(f"a is on {a.device}, b on {b.device}: move one with .to(...).")
    for name, value in (("a", a), ("b", b)):
        if value.device.type != "meta" and not value.isfinite().all():
            raise ValueError(f"{name} has NaN or infinity, and a vector must be finite: mend what made it.")
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)
