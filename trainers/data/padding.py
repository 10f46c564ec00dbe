"""Padding: rows of token ids of unequal lengths as one tensor, and the id that fills them up.

The collator of each method makes a batch of its examples with these.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from hub_cards.travelling.checks import check_choice, shown, typed

Example = dict[str, Any]
Batch = dict[str, Any]


def check_examples(examples: Any, *fields: str) -> None:
    """TypeError or ValueError unless `examples` are some dicts that have the fields: a collator's first step."""
    if isinstance(examples, str | bytes) or not isinstance(examples, Sequence):
        raise TypeError(f"examples={shown(examples)} must be a list of examples: give one as [example].")
    if not examples:
        raise ValueError("The batch is empty; it needs one example or more.")
    for number, example in enumerate(examples):
        if not isinstance(example, Mapping):
            raise TypeError(f"Example {number} is {shown(example)} and must be a dict of {', '.join(fields)}.")
        for field in fields:
            if field not in example:
                raise ValueError(f"Example {number} has no {field!r}: it needs {', '.join(fields)}.")


def pad_rows(rows: Sequence[Any], value: int, side: str, what: str = "input_ids") -> torch.Tensor:
    """(number of rows, longest row) int64, filled up with `value` on the `left` or `right` side.

    Raises TypeError, naming the field and the example, for a row that is no list of whole numbers.
    """
    return pad_sequence([_row(row, f"{what} of example {n}") for n, row in enumerate(rows)], True, value, side)


def _row(row: Any, what: str) -> torch.Tensor:
    try:
        found = torch.as_tensor(row, dtype=None if len(row) else torch.long)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.dtype != torch.long or found.dim() != 1:
        raise TypeError(f"{what} is {shown(row)} and must be a list of whole numbers: give token ids.")
    return found


def check_padding(pad_token_id: Any, padding_side: Any = "left") -> None:
    """TypeError or ValueError unless a collator's settings are an id and a side."""
    if not 0 <= typed("pad_token_id", pad_token_id, int) < 2**31:
        raise ValueError(f"pad_token_id={shown(pad_token_id)} must be from 0 to {2**31 - 1}: give an id of a token.")
    check_choice("padding_side", padding_side, ("left", "right"))


def check_same_length(examples: Sequence[Example], field: str, other: str) -> None:
    """ValueError unless both fields of each example are of one length."""
    for number, example in enumerate(examples):
        if len(example[field]) != len(example[other]):
            raise ValueError(
                f"Example {number} has {len(example[field])} {field} for {len(example[other])} {other}, and must have "
                "as many: give one for each."
            )


def pad_texts(rows: Sequence[Any], pad_token_id: int, side: str, what: str = "input_ids") -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, both (number of rows, longest row).

    The mask comes from the lengths, never from the ids: a pad token may equal the eos token.
    """
    if not rows:
        raise ValueError("The batch is empty; it needs one example or more.")
    input_ids = pad_rows(rows, pad_token_id, side, what)
    empty = next((number for number, row in enumerate(rows) if not len(row)), None)
    if empty is not None:
        raise ValueError(f"{what} of example {empty} has no tokens: leave the example out.")
    return {"input_ids": input_ids, "attention_mask": pad_rows([[1] * len(row) for row in rows], 0, side)}


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to fill up rows with: the pad token's, else the eos token's, else 0 (the mask says what is padding)."""
    return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
