"""Batches of queries and their passages: token ids of examples as padded tensors."""

from dataclasses import dataclass

import torch

from hub_cards.travelling.checks import shown, typed

from ..data.padding import Batch, Example, check_examples, check_padding, pad_rows, pad_texts
from .in_context import InContextExamples


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

    def __post_init__(self) -> None:
        check_padding(self.pad_token_id, self.padding_side)

    def __call__(self, examples: list[Example]) -> Batch:
        check_examples(examples, "passage_ids")
        _check_groups(examples)
        if self.in_context is not None:
            examples = self.in_context(examples)
        check_examples(examples, "query_ids", "passage_ids")
        passages = [ids for example in examples for ids in example["passage_ids"]]
        batch: Batch = {
            "query": pad_texts(
                [row["query_ids"] for row in examples], self.pad_token_id, self.padding_side, "query_ids"
            ),
            "passage": pad_texts(passages, self.pad_token_id, self.padding_side, "passage_ids"),
        }
        scores = [example.get("teacher_scores") for example in examples]
        if all(row is not None for row in scores):
            batch["teacher_scores"] = torch.tensor(scores, dtype=torch.float32)
        if all("identity" in example for example in examples):
            batch["identity"] = collate_identity([example["identity"] for example in examples])
        if "in_batch_negatives" in examples[0]:
            batch["in_batch_negatives"] = examples[0]["in_batch_negatives"]
        return batch


def _check_groups(examples: list[Example]) -> None:
    """TypeError or ValueError unless all queries have as many passages, and each passage a score where there are any.

    Rows i*G to (i+1)*G - 1 would be another query's passages otherwise.
    """
    size = None
    for number, example in enumerate(examples):
        group, scores = example["passage_ids"], example.get("teacher_scores")
        if not isinstance(group, list | tuple) or not group:
            raise TypeError(f"passage_ids of example {number} is {shown(group)} and must be a list of passages' ids.")
        size = size or len(group)
        if len(group) != size:
            raise ValueError(
                f"passage_ids of example {number} has {len(group)} passages, and of the first {size}: a batch needs "
                "groups of one size."
            )
        if scores is not None and len(typed(f"teacher_scores of example {number}", scores, list[float])) != size:
            raise ValueError(
                f"Example {number} has {len(scores)} teacher_scores for {size} passages: give one for each."
            )


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
