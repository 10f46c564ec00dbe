"""Checks of what a caller hands in. Each raises before any compute and names the value, the rule and the fix."""

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch

POOLINGS = ("last_token", "cls", "mean", "mean_last_k")
SIMILARITIES = ("cosine", "dot")
ROLES = ("query", "passage")
PROMPT_KEYS = ("query", "passage", "query_suffix", "passage_suffix")
_INTEGER_TYPES = (torch.int64, torch.int32)


def nearest(name: object, names: Iterable[str]) -> str:
    """The valid name closest to `name`, quoted: `'pooling'`."""
    return repr(get_close_matches(str(name), list(names), n=1, cutoff=0.0)[0])


def check_choice(what: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"{what}={value!r} is not known: it must be one of {list(choices)}. "
            f"Did you mean {nearest(value, choices)}?"
        )


def check_keywords(names: Iterable[str], valid: Sequence[str], owner: str) -> None:
    """Raise ValueError at the first keyword that `owner` does not take."""
    for name in names:
        if name not in valid:
            raise ValueError(
                f"{owner} has no keyword {name!r}: did you mean {nearest(name, valid)}? "
                f"Remove it or use one of {sorted(valid)}."
            )


def check_positive_int(what: str, value: object) -> None:
    """Raise TypeError or ValueError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what}={value!r} must be a whole number of at least 1, not {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{what}={value} must be at least 1.")


def check_max_length(what: str, value: object, positions: int | None) -> None:
    """Raise TypeError or ValueError unless `value` is a whole number of at least 1, and no more than `positions`."""
    check_positive_int(what, value)
    if positions is not None and value > positions:  # type: ignore[operator]  # a whole number
        raise ValueError(
            f"{what}={value} is longer than the backbone's {positions} positions: use at most {positions}."
        )


def check_bool(what: str, value: object) -> None:
    """Raise TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{what}={value!r} must be True or False, not {type(value).__name__}.")


def check_number(what: str, value: object, least: float | None = None, above: float | None = None) -> None:
    """Raise TypeError or ValueError unless `value` is a finite number, `least` or more, or more than `above`."""
    rule = "a finite number" + ("" if least is None else f" of at least {least:g}")
    rule += "" if above is None else f" above {above:g}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{what}={value!r} must be {rule}, not {type(value).__name__}.")
    if not math.isfinite(value) or (least is not None and value < least) or (above is not None and value <= above):
        raise ValueError(f"{what}={value} must be {rule}.")


def check_prompts(prompts: object) -> None:
    """Raise TypeError or ValueError unless `prompts` is {task: {prompt key: text}}."""
    if not isinstance(prompts, Mapping):
        raise TypeError(
            f"prompts must be a dict {{task: {{'query': prefix, ...}}}}, not {type(prompts).__name__}: "
            "the task used when none is named is 'default'."
        )
    for task, prompt in prompts.items():
        if not isinstance(prompt, Mapping):
            raise TypeError(f"prompts[{task!r}]={prompt!r} must be a dict with keys among {list(PROMPT_KEYS)}.")
        check_keywords(prompt, PROMPT_KEYS, f"prompts[{task!r}]")
        for key, text in prompt.items():
            if not isinstance(text, str):
                raise TypeError(f"prompts[{task!r}][{key!r}]={text!r} must be a string.")


def check_embedding_dims(dims: object, width: int) -> None:
    """Raise TypeError or ValueError unless `dims` is a non-empty list of whole numbers from 1 to `width`."""
    if not isinstance(dims, list | tuple) or not dims:
        raise TypeError(f"embedding_dims={dims!r} must be None or a non-empty list of widths, such as [64, {width}].")
    for dim in dims:
        check_positive_int("embedding_dims", dim)
        if dim > width:
            raise ValueError(f"embedding_dims={list(dims)}: {dim} is wider than the backbone's {width} dimensions.")
    if len(set(dims)) < len(dims):
        raise ValueError(f"embedding_dims={list(dims)} names a width twice: name each once.")


def check_truncate_dim(truncate_dim: int | None, embedding_dims: Sequence[int] | None, width: int) -> None:
    """Raise unless `truncate_dim` is None, one of the trained widths, or (none were trained) from 1 to `width`.

    The full `width` is always trained.
    """
    if truncate_dim is None or truncate_dim == width:
        return
    check_positive_int("truncate_dim", truncate_dim)
    if embedding_dims is not None and truncate_dim not in embedding_dims:
        raise ValueError(f"truncate_dim={truncate_dim} was not trained: use one of embedding_dims={embedding_dims}.")
    if truncate_dim > width:
        raise ValueError(f"truncate_dim={truncate_dim} is wider than the embeddings: use at most {width}.")


def check_texts(texts: object) -> None:
    """Raise TypeError unless `texts` is a list or tuple of strings."""
    if not isinstance(texts, list | tuple):
        raise TypeError(f"texts must be a list of strings, not {type(texts).__name__}: pass [text] for one text.")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}]={text!r} must be a string, not {type(text).__name__}.")


def check_tokens(input_ids: object, attention_mask: object, weight: Any, name: str = "") -> None:
    """Raise unless `input_ids` is (batch, length) integers on `weight`'s device, with a mask of that shape or None.

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
    _check_device(f"{name}input_ids", input_ids, weight)
    if attention_mask is None:
        return
    if not isinstance(attention_mask, torch.Tensor):
        raise TypeError(f"{name}attention_mask must be a tensor or None, not {type(attention_mask).__name__}.")
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"{name}attention_mask has shape {tuple(attention_mask.shape)}: it must be that of input_ids, "
            f"{tuple(input_ids.shape)}."
        )
    _check_device(f"{name}attention_mask", attention_mask, weight)
    empty = (attention_mask == 0).all(dim=1)
    if empty.any():
        raise ValueError(
            f"{name}attention_mask is 0 over the whole of row {int(empty.nonzero()[0])}: each row needs a token. "
            "Leave the row out, or give it one token (encode gives an empty text the end-of-sequence token)."
        )


def _check_device(what: str, tensor: torch.Tensor, weight: Any) -> None:
    if tensor.device != weight.device and weight.device.type != "meta":  # meta: weights offloaded by accelerate
        raise ValueError(f"{what} is on {tensor.device}, the model on {weight.device}: move one with .to(...).")


def check_group(queries: int, passages: int) -> int:
    """The number of passages for each query; ValueError when the passages do not divide evenly."""
    if queries < 1 or passages < 1:
        raise ValueError(f"the batch has {queries} queries and {passages} passages: it needs at least one of each.")
    if passages % queries:
        raise ValueError(
            f"{passages} passages are not a multiple of {queries} queries: give each query the same number of "
            "passages, its positive first (query i owns passages i * group_size to (i + 1) * group_size - 1)."
        )
    return passages // queries


def check_teacher_scores(teacher_scores: object, queries: int, group_size: int, device: torch.device) -> None:
    """Raise unless `teacher_scores` is None or (queries, group_size) floating point on `device`."""
    if teacher_scores is None:
        return
    if not isinstance(teacher_scores, torch.Tensor):
        raise TypeError(f"teacher_scores must be a tensor or None, not {type(teacher_scores).__name__}.")
    if not teacher_scores.is_floating_point():
        raise TypeError(f"teacher_scores has dtype {teacher_scores.dtype}: scores must be floating point.")
    if teacher_scores.shape != (queries, group_size):
        raise ValueError(
            f"teacher_scores has shape {tuple(teacher_scores.shape)}: it must be (queries, passages for each query) "
            f"= ({queries}, {group_size})."
        )
    if teacher_scores.device != device:
        raise ValueError(f"teacher_scores is on {teacher_scores.device}, the batch on {device}: use .to(...).")
