"""Which passages of a batch are no negatives of a query: they are known, or look, as good as its positive."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Identity:
    """Numbers of a batch's texts: equal texts have equal numbers, none is 0.

    Args:
        query: (B,) int64.
        passage: (B * G,) int64, query i's own at i * G to (i + 1) * G - 1, its positive first.
        positives: (B, P) int64, every text known to be a positive of the query, filled up with 0.
    """

    query: torch.Tensor
    passage: torch.Tensor
    positives: torch.Tensor

    @classmethod
    def of(
        cls, numbers: "Mapping[str, torch.Tensor] | Identity | None", queries: int, passages: int, device: torch.device
    ) -> Any:
        """The checked numbers of `queries` queries and `passages` passages on `device`; None stays None.

        Raises TypeError for what is no dict of integer tensors, ValueError for other names, shapes and places.
        """
        if numbers is None or isinstance(numbers, Identity):
            return numbers
        parts = numbers if isinstance(numbers, Mapping) else {"": numbers}
        for name, part in parts.items():
            if not isinstance(part, torch.Tensor) or part.dtype not in (torch.int64, torch.int32):
                found = getattr(part, "dtype", None) or type(part).__name__
                raise TypeError(
                    f"identity must be a dict of torch.int64 tensors: {name or 'it'} is {found}; see Identity."
                )
            if part.device != device:
                raise ValueError(f"identity's {name} is on {part.device}, the batch on {device}: use .to(...).")
        shapes = {name: tuple(part.shape) for name, part in parts.items()}
        known = shapes.get("positives", ())[1:]
        if len(known) != 1 or shapes != {"query": (queries,), "passage": (passages,), "positives": (queries, *known)}:
            raise ValueError(
                f"identity has the shapes {shapes}: it must hold query ({queries},), passage ({passages},) and "
                f"positives ({queries}, any number)."
            )
        return cls(**numbers)


def known_positives(mine: Identity, batch: Identity, own: torch.Tensor) -> torch.Tensor:
    """(B, N) bool: passages of `batch` that are no negatives of the queries of `mine`.

    Those are passages with the text of one of the query's positives, or of an equal query's, and the query's own
    text. `mine` is a part of `batch` (all processes' queries), or all of it; `own` (B,) is the column of each query's
    positive, which is never among them.
    """
    found = _are_positives(mine, batch, batch.passage[None, :])
    return found.scatter(1, own[:, None], False)


def known_own_positives(mine: Identity, batch: Identity) -> torch.Tensor:
    """(B, G) bool: passages of each query's own group, but for its positive, that are no negatives of it."""
    found = _are_positives(mine, batch, mine.passage.view(len(mine.query), -1))
    found[:, 0] = False
    return found


def _are_positives(mine: Identity, batch: Identity, passages: torch.Tensor) -> torch.Tensor:
    """(B, N) bool: which of (B, N) or (1, N) passages have the text of one of the query's positives, or its own."""
    found = passages == mine.query[:, None]
    for positive in _positives_of_text(mine, batch).T:  # (B,): a loop over few, so that no (B, N, P) is formed
        found |= passages == positive[:, None]
    return found


def _positives_of_text(mine: Identity, batch: Identity) -> torch.Tensor:
    """(B, any number) positives of each query of `mine`, with those of the equal queries of `batch`; 0 fills up."""
    equal = mine.query[:, None] == batch.query[None, :]  # (B, queries)
    if not (equal.sum(dim=1) > 1).any():
        return mine.positives
    known = torch.cat([batch.positives, batch.passage.view(len(batch.query), -1)[:, :1]], dim=1)
    return pad_sequence([known[row].unique() for row in equal], batch_first=True)


def known_queries(mine: Identity, batch: Identity, own: torch.Tensor) -> torch.Tensor:
    """(B, queries) bool: queries of `batch` that the positives of `mine` are no negatives of; the other direction.

    A query with the positive's own text is among them.
    `own` (B,) is the column of each positive's query, which is never among them.
    """
    positive = mine.passage.view(len(mine.query), -1)[:, 0]  # (B,)
    found = (mine.query[:, None] == batch.query[None, :]) | (positive[:, None] == batch.query[None, :])
    for known in _positives_of_text(batch, batch).T:
        found |= positive[:, None] == known[None, :]
    return found.scatter(1, own[:, None], False)


def too_similar(scores: torch.Tensor, own: torch.Tensor, temperature: float, margin: float, kind: str) -> torch.Tensor:
    """(B, N) bool: candidates more similar than the positive's similarity less a margin.

    `absolute`: similarity > positive - margin; `relative`: similarity > positive - margin * abs(positive) (the two
    filters of arXiv:2407.15831, on the student's own similarities). A margin below 0 leaves room above the positive.

    Args:
        scores: (B, N) similarities / temperature.
        own: (B,) the column of the positive, which is never among them.
    """
    similarity = scores.detach() * temperature
    positive = similarity.gather(1, own[:, None])  # (B, 1)
    room = margin * positive.abs() if kind == "relative" else margin
    return (similarity > positive - room).scatter(1, own[:, None], False)
