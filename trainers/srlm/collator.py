"""Batches of documents as padded tensors, and of chats as texts."""

from dataclasses import dataclass
from typing import Any

import torch

from hub_cards.travelling.checks import check_positive_int, typed

from ..data.padding import Batch, Example, check_examples, check_padding, check_same_length, pad_rows, pad_texts

_OF_A_CHAT = {"query": str, "history": list[str], "answer": str, "answer_length": int}


@dataclass
class SelfRetrievalCollator:
    """Documents padded on the left, so that the targets at their ends stand below each other; chats as texts.

    >>> collate = SelfRetrievalCollator(pad_token_id=0)
    >>> collate([{"input_ids": [4, 5, 6], "labels": [-100, 5, 6]}, {"input_ids": [7, 8], "labels": [-100, 8]}])
    {'input_ids': tensor([[4, 5, 6],
            [0, 7, 8]]), 'attention_mask': tensor([[1, 1, 1],
            [0, 1, 1]]), 'labels': tensor([[-100,    5,    6],
            [-100, -100,    8]])}
    """

    pad_token_id: int

    def __post_init__(self) -> None:
        check_padding(self.pad_token_id)

    def __call__(self, examples: list[Example]) -> Batch:
        if _is_chat(examples):
            return collate_dialogues(examples)
        check_examples(examples, "input_ids", "labels")
        batch: Batch = pad_texts([example["input_ids"] for example in examples], self.pad_token_id, "left")
        batch["labels"] = pad_rows([example["labels"] for example in examples], -100, "left", "labels")
        check_same_length(examples, "labels", "input_ids")
        return batch


def _is_chat(examples: Any) -> bool:
    return isinstance(examples, list) and any(isinstance(one, dict) and "history" in one for one in examples)


def collate_dialogues(examples: list[Example]) -> Batch:
    """Chat rows as the texts that `forward_with_history_retrieval` takes, histories filled up with empty turns.

    >>> collate_dialogues([
    ...     {"query": "And now?", "history": ["a", "b"], "answer": "Now.", "answer_length": 2},
    ...     {"query": "Who?", "history": ["c"], "answer": "Me.", "answer_length": 3},
    ... ])
    {'query': ['And now?', 'Who?'], 'history': [['a', 'b'], ['c', '']], 'answer': ['Now.', 'Me.'], \
'history_mask': tensor([[ True,  True],
            [ True, False]]), 'answer_length': tensor([2, 3])}
    """
    check_examples(examples, "query", "history", "answer", "answer_length")
    for number, example in enumerate(examples):
        for field, hint in _OF_A_CHAT.items():
            typed(f"{field} of example {number}", example[field], hint)
        check_positive_int(f"answer_length of example {number}", example["answer_length"], most=2**31 - 1)
    longest = max(len(example["history"]) for example in examples)
    lengths = torch.tensor([len(example["history"]) for example in examples])
    return {
        "query": [example["query"] for example in examples],
        "history": [example["history"] + [""] * (longest - len(example["history"])) for example in examples],
        "answer": [example["answer"] for example in examples],
        "history_mask": torch.arange(longest)[None] < lengths[:, None],
        "answer_length": torch.tensor([example["answer_length"] for example in examples]),
    }
