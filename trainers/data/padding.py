"""Padding: rows of token ids of unequal lengths as one tensor, and the id that fills them up.

The collator of each method makes a batch of its examples with these.
"""

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

Example = dict[str, Any]
Batch = dict[str, Any]


def pad_rows(rows: list[list[int]], value: int, side: str) -> torch.Tensor:
    """(number of rows, longest row) int64, filled up with `value` on the `left` or `right` side."""
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], True, value, side)


def pad_texts(rows: list[list[int]], pad_token_id: int, side: str) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, both (number of rows, longest row).

    The mask comes from the lengths, never from the ids: a pad token may equal the eos token.
    """
    if not rows:
        raise ValueError("The batch is empty; it needs one example or more.")
    mask = pad_rows([[1] * len(row) for row in rows], 0, side)
    return {"input_ids": pad_rows(rows, pad_token_id, side), "attention_mask": mask}


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to fill up rows with: the pad token's, else the eos token's, else 0 (the mask says what is padding)."""
    return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
