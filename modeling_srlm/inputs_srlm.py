"""Checks of a forward call's tensors: every error names the value, the rule and the fix, before any compute."""

from typing import Any

import torch
from transformers.utils import logging

from .checks_srlm import check_mask, check_positive_int, typed

logger = logging.get_logger(__name__)


def check_inputs(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    vocab_size: int,
    device: torch.device | None,
) -> None:
    """Raises TypeError or ValueError unless all are integer (B, L) tensors on `device`, if given, with real tokens."""
    _check_tensor("input_ids", input_ids, input_ids)
    if device is not None and input_ids.device != device:
        raise ValueError(f"input_ids is on {input_ids.device}, the model on {device}; move one with .to(device).")
    if attention_mask is not None:
        _check_tensor("attention_mask", attention_mask, input_ids)
        check_mask("attention_mask", attention_mask)
        _check_mask(attention_mask.bool())
    if labels is not None:
        _check_tensor("labels", labels, input_ids)
        if not (labels != -100).any():
            raise ValueError("labels are all -100: nothing can be scored. Give at least one token its label.")
        _check_labels(labels, vocab_size)
    highest = int(input_ids.max())
    if highest >= vocab_size or int(input_ids.min()) < 0:
        raise ValueError(
            f"input_ids run from {int(input_ids.min())} to {highest}; the backbone has {vocab_size} tokens. "
            f"Use its own tokenizer, or resize_token_embeddings."
        )


def is_dialogue(keywords: dict[str, Any], input_ids: Any, texts: dict[str, Any], switches: dict[str, Any]) -> bool:
    """Whether `forward` is given a dialogue: query, history and answer, and the mask of its history, or None each.

    Raises TypeError or ValueError for a part of one, one beside `input_ids`, neither, `switches` that are not True,
    False or None, and an argument that `forward` does not have.
    """
    _refuse_others(keywords)
    for name, value in switches.items():
        typed(name, value, bool | None)
    given = [name for name, value in texts.items() if value is not None]
    if not given and input_ids is None:
        raise ValueError("there are no input_ids; give them, or query, history and answer of a dialogue.")
    lacking = [name for name in ("query", "history", "answer") if given and texts[name] is None]
    if lacking or (given and input_ids is not None):
        other = "input_ids" if input_ids is not None else f"no {' and no '.join(lacking)}"
        raise ValueError(
            f"{', '.join(given)} and {other} are given; give input_ids, or query, history and answer of a dialogue."
        )
    return bool(given)


def _refuse_others(keywords: dict[str, Any]) -> None:
    for name, value in keywords.items():
        if value is not None and value is not False:
            raise TypeError(
                f"forward() has no argument {name!r} here: a document goes through the backbone in pieces, with what "
                "each retrieves, so take input_ids, attention_mask and labels, or the backbone, model.language_model."
            )


def _check_labels(labels: torch.Tensor, vocab_size: int) -> None:
    wrong = ((labels < 0) & (labels != -100)) | (labels >= vocab_size)
    if wrong.any():
        row, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"labels[{row}, {place}]={int(labels[row, place])} must be a token id below {vocab_size}, or -100 for a "
            "token that is not scored: mend it."
        )


def _check_tensor(name: str, tensor: torch.Tensor, like: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; it must be a torch.Tensor of shape (batch, length).")
    is_mask = tensor.dtype == torch.bool and name == "attention_mask"
    if tensor.is_floating_point() or tensor.is_complex() or (tensor.dtype == torch.bool and not is_mask):
        raise TypeError(f"{name} has dtype {tensor.dtype}; it must be an integer tensor: use {name}.long().")
    if tensor.ndim != 2 or not tensor.numel():
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be (batch, length), neither of them 0.")
    if tensor.shape != like.shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; it must have that of input_ids {tuple(like.shape)}."
        )
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, input_ids on {like.device}; move it there with .to().")


def _check_mask(mask: torch.Tensor) -> None:
    if not mask.any(dim=1).all():
        row = int((~mask.any(dim=1)).nonzero()[0])
        raise ValueError(f"row {row} of attention_mask is all 0: an empty document. Leave the row out.")
    runs = mask[:, 0].long() + (mask[:, 1:] & ~mask[:, :-1]).sum(dim=1)
    if (runs > 1).any():
        row = int((runs > 1).nonzero()[0])
        raise ValueError(f"row {row} of attention_mask has holes; padding must stand before or behind the document.")


def check_candidates(candidates: Any, rows: int) -> None:
    """Raises TypeError or ValueError unless these are None, or numbers of chunks, -1 for none: (rows, c) for all
    targets of a row, or (rows, n_target, c)."""
    if candidates is None:
        return
    if not isinstance(candidates, torch.Tensor) or candidates.dtype not in (torch.int64, torch.int32):
        found = getattr(candidates, "dtype", None) or type(candidates).__name__
        raise TypeError(f"candidates must be a tensor of torch.int64, chunk numbers, not {found}.")
    if candidates.ndim not in (2, 3) or len(candidates) != rows or not candidates.numel():
        raise ValueError(
            f"candidates has shape {tuple(candidates.shape)}; it must be ({rows}, c), some chunks for each row, or "
            f"({rows}, n_target, c), some for each target chunk."
        )
    if candidates.device.type == "meta":
        raise ValueError("candidates is on meta, and must hold numbers; move it with .to(device).")
    if (least := int(candidates.min())) < -1:
        raise ValueError(f"candidates holds {least}; give numbers of chunks, from 0 on, and -1 for none.")


def check_prompt_length(prompt_length: object, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
    """Raises TypeError or ValueError unless the first `prompt_length` columns hold a token of each row."""
    check_positive_int(
        "prompt_length", prompt_length, "give the columns of the prompt, input_ids.shape[1] of generate"
    )
    assert isinstance(prompt_length, int)
    if prompt_length > input_ids.shape[1]:
        raise ValueError(
            f"prompt_length={prompt_length} is longer than the rows of {input_ids.shape[1]} tokens; give the rows "
            "that generate returned, and the columns of their prompts."
        )
    if attention_mask is not None and not (real := attention_mask[:, :prompt_length].bool().any(dim=1)).all():
        raise ValueError(
            f"row {int(real.long().argmin())} has no token in the first prompt_length={prompt_length} columns; give a "
            "length that covers a token of each prompt."
        )


def warn_of_padding(input_ids: torch.Tensor, labels: torch.Tensor | None, config: Any) -> None:
    """Warns once where rows of a batch without attention_mask seem to be padded on the right.

    The grid of chunks ends where a row ends; that of a padded row would end in its padding.
    """
    if len(input_ids) < 2 or input_ids.shape[1] < 2:
        return
    last = input_ids[:, -1]
    padded = (last == 0) | (last == input_ids[:, -2])
    if isinstance(config.pad_token_id, int):
        padded |= last == config.pad_token_id
    if labels is not None:
        padded &= labels[:, -1] != -100
    if padded.any():
        logger.warning_once(
            f"row {int(padded.long().argmax())} of a batch without attention_mask seems to be padded on the right; "
            "its padding is read as text, which changes what is retrieved and the probabilities of every token: give "
            "attention_mask; where a tool gives none, such as lm-evaluation-harness, use batch_size=1."
        )
