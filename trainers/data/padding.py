"""Collators: token ids of single examples to padded tensors.

They only pad, and the data files tokenise; queries with in-context examples alone have to see their batch first.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..biencoder.in_context import InContextExamples

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


@dataclass
class BiEncoderCollator:
    """Queries and their groups of passages, query i's being rows i*G to (i+1)*G - 1 of `passage`.

    `teacher_scores` (B, G) float32 is there if every example of the batch has them; a batch in which one lacks them
    trains by contrast alone. `identity` {"query": (B,), "passage": (B * G,), "positives": (B, P)}, int64, tells equal
    texts; P is the most known positives of a query, 0 fills the rows. `in_batch_negatives` (a bool) is what the
    batch's data set asks for, where it asks. `in_context` makes token ids of queries that take in-context examples,
    which are drawn from the batch.

    >>> collate = BiEncoderCollator(pad_token_id=0, padding_side="left")
    >>> collate([
    ...     {"query_ids": [5], "passage_ids": [[6, 7], [8]], "teacher_scores": [0.5, -1.0]},
    ...     {"query_ids": [5, 9], "passage_ids": [[4], [3]], "teacher_scores": [2.0, 1.0]},
    ... ])
    {'query': {'input_ids': tensor([[0, 5],
            [5, 9]]), 'attention_mask': tensor([[0, 1],
            [1, 1]])}, 'passage': {'input_ids': tensor([[6, 7],
            [0, 8],
            [0, 4],
            [0, 3]]), 'attention_mask': tensor([[1, 1],
            [0, 1],
            [0, 1],
            [0, 1]])}, 'teacher_scores': tensor([[ 0.5000, -1.0000],
            [ 2.0000,  1.0000]])}
    """

    pad_token_id: int
    padding_side: str
    in_context: InContextExamples | None = None

    def __call__(self, examples: list[Example]) -> Batch:
        if self.in_context is not None:
            examples = self.in_context(examples)
        passages = [ids for example in examples for ids in example["passage_ids"]]
        batch: Batch = {
            "query": pad_texts([example["query_ids"] for example in examples], self.pad_token_id, self.padding_side),
            "passage": pad_texts(passages, self.pad_token_id, self.padding_side),
        }
        scores = [example["teacher_scores"] for example in examples]
        if all(row is not None for row in scores):
            batch["teacher_scores"] = torch.tensor(scores, dtype=torch.float32)
        if all("identity" in example for example in examples):
            batch["identity"] = collate_identity([example["identity"] for example in examples])
        if "in_batch_negatives" in examples[0]:
            batch["in_batch_negatives"] = examples[0]["in_batch_negatives"]
        return batch


def collate_identity(rows: list[Example]) -> dict[str, torch.Tensor]:
    """The `identity` of a batch from that of its examples, see `BiEncoderCollator`.

    >>> collate_identity([{"query": 5, "passage": [6, 7], "positives": [6]},
    ...                   {"query": 8, "passage": [9, 7], "positives": [9, 3]}])
    {'query': tensor([5, 8]), 'passage': tensor([6, 7, 9, 7]), 'positives': tensor([[6, 0],
            [9, 3]])}
    """
    return {
        "query": torch.tensor([row["query"] for row in rows]),
        "passage": torch.tensor([number for row in rows for number in row["passage"]]),
        "positives": pad_rows([row["positives"] for row in rows], 0, "right"),
    }


@dataclass
class LlaraCollator:
    """Rows [passage | prompts] and the target words of each span.

    Labels and target ids are padded with -100; a span for which no example of the batch has a target is left out.

    >>> collate = LlaraCollator(pad_token_id=0, padding_side="left")
    >>> collate([
    ...     {"input_ids": [4, 5, 9], "labels": [4, 5, -100], "output_summarize_ids": [4, 5], "output_predict_ids": []},
    ...     {"input_ids": [6, 9], "labels": [6, -100], "output_summarize_ids": [6], "output_predict_ids": []},
    ... ])
    {'input_ids': tensor([[4, 5, 9],
            [0, 6, 9]]), 'attention_mask': tensor([[1, 1, 1],
            [0, 1, 1]]), 'labels': tensor([[   4,    5, -100],
            [-100,    6, -100]]), 'output_summarize_ids': tensor([[   4,    5],
            [-100,    6]])}
    """

    pad_token_id: int
    padding_side: str

    def __call__(self, examples: list[Example]) -> Batch:
        batch: Batch = pad_texts([example["input_ids"] for example in examples], self.pad_token_id, self.padding_side)
        batch["labels"] = pad_rows([example["labels"] for example in examples], -100, self.padding_side)
        for field in ("output_summarize_ids", "output_predict_ids"):
            targets = [example[field] for example in examples]
            if any(targets):
                batch[field] = pad_rows(targets, -100, self.padding_side)
        return batch


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
