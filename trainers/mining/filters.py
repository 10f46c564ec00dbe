"""Which of a query's ranked passages become its negatives: pure functions over their scores."""

import random
from collections.abc import Sequence

import torch


def passing(
    scores: torch.Tensor,
    positive_scores: torch.Tensor,
    min_score: float | None = None,
    max_score: float | None = None,
    margin: float | None = None,
    relative_margin: float | None = None,
) -> torch.Tensor:
    """(n,) bool: which candidates stay.

    Args:
        scores: (n,) the retriever's scores of the candidates.
        positive_scores: (p,) its scores of the query's positives; the lowest one counts, so that a negative is below
            whichever positive it is trained with.
        min_score, max_score: a candidate must reach the one and not exceed the other.
        margin: it must score below positive - margin (TopK-MarginPos of NV-Retriever, arXiv:2407.15831).
        relative_margin: it must score below positive - |positive| * relative_margin, which for positive scores is
            positive * (1 - relative_margin) (TopK-PercPos there).

    >>> passing(torch.tensor([0.9, 0.7, 0.5]), torch.tensor([0.8]), margin=0.05)
    tensor([False,  True,  True])
    """
    stays = torch.ones_like(scores, dtype=torch.bool)
    if min_score is not None:
        stays &= scores >= min_score
    if max_score is not None:
        stays &= scores <= max_score
    if margin is not None or relative_margin is not None:
        positive = positive_scores.min()
        if margin is not None:
            stays &= scores < positive - margin
        if relative_margin is not None:
            stays &= scores < positive - positive.abs() * relative_margin
    return stays


def draw(candidates: Sequence[int], count: int, sampling: str, seed: int, row: int) -> list[int]:
    """At most `count` of the ranked candidates, still ranked: the first ones (`top`) or any (`random`).

    The draw depends on (seed, row number) and the candidates alone.

    >>> draw([5, 8, 2, 9], 2, "top", seed=0, row=0)
    [5, 8]
    """
    if sampling == "top" or len(candidates) <= count:
        return list(candidates[:count])
    chosen = random.Random(f"{seed}-{row}").sample(range(len(candidates)), count)
    return [candidates[i] for i in sorted(chosen)]


def fuse_ranks(rankings: Sequence[Sequence[int]], constant: int = 60) -> list[int]:
    """The ids of several rankings by the sum of 1 / (constant + rank), rank from 1; equal sums by id.

    Reciprocal rank fusion (Cormack et al. 2009), constant and all.

    >>> fuse_ranks([[7, 3, 1], [3, 9]])
    [3, 7, 9, 1]
    """
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, 1):
            sums[number] = sums.get(number, 0.0) + 1 / (constant + rank)
    return sorted(sums, key=lambda number: (-sums[number], number))
