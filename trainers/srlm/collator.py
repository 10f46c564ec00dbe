"""Batches of documents as padded tensors, and of chats as texts."""

from dataclasses import dataclass

import torch

from ..data.padding import Batch, Example, pad_rows, pad_texts


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

    def __call__(self, examples: list[Example]) -> Batch:
        if "history" in examples[0]:
            return collate_dialogues(examples)
        batch: Batch = pad_texts([example["input_ids"] for example in examples], self.pad_token_id, "left")
        batch["labels"] = pad_rows([example["labels"] for example in examples], -100, "left")
        return batch


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
    longest = max(len(example["history"]) for example in examples)
    lengths = torch.tensor([len(example["history"]) for example in examples])
    return {
        "query": [example["query"] for example in examples],
        "history": [example["history"] + [""] * (longest - len(example["history"])) for example in examples],
        "answer": [example["answer"] for example in examples],
        "history_mask": torch.arange(longest)[None] < lengths[:, None],
        "answer_length": torch.tensor([example["answer_length"] for example in examples]),
    }
