"""Retrieval metrics from ranked lists, as pure functions.

A ranking is a list of passage ids, best first; `relevant` maps each relevant passage id of the query to its gain
(or is a set of ids, each of gain 1). Every metric lies in [0, 1] and is a mean over the queries. Definitions are
trec_eval's: nDCG with linear gain and log2 discount (Jarvelin & Kekalainen 2002), recall over all relevant passages.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence

import torch

Ranking = Sequence[Hashable]
Relevance = Mapping[Hashable, float] | Collection[Hashable]


def mean_reciprocal_rank(rankings: Sequence[Ranking], relevant: Sequence[Relevance], k: int) -> float:
    """MRR@k: 1 / rank of the first relevant passage among the first k, 0 where there is none.

    >>> mean_reciprocal_rank([["a", "b"], ["c", "d"]], [{"b"}, {"c"}], k=10)
    0.75
    """
    return _mean(_reciprocal_rank, rankings, relevant, k)


def ndcg(rankings: Sequence[Ranking], relevant: Sequence[Relevance], k: int) -> float:
    """nDCG@k: sum of gain / log2(rank + 1) over the first k, divided by that of the best possible ranking.

    >>> round(ndcg([["a", "b", "c"]], [{"b": 1.0}], k=10), 4)
    0.6309
    """
    return _mean(_ndcg, rankings, relevant, k)


def recall(rankings: Sequence[Ranking], relevant: Sequence[Relevance], k: int) -> float:
    """Recall@k: the share of the relevant passages that is among the first k.

    >>> recall([["a", "b", "c"]], [{"c", "d"}], k=3)
    0.5
    """
    return _mean(_recall, rankings, relevant, k)


def retrieval_metrics(
    rankings: Sequence[Ranking], relevant: Sequence[Relevance], ks: Sequence[int] = (10,)
) -> dict[str, float]:
    """{"mrr@10": ..., "ndcg@10": ..., "recall@10": ...} for each cut-off of `ks`."""
    metrics = {"mrr": mean_reciprocal_rank, "ndcg": ndcg, "recall": recall}
    return {f"{name}@{k}": metric(rankings, relevant, k) for k in ks for name, metric in metrics.items()}


def rank_passages(scores: torch.Tensor, k: int) -> list[list[int]]:
    """The k best columns of each row of `scores` (queries, passages), best first; equal scores by column number."""
    if scores.ndim != 2:
        raise ValueError(f"scores has shape {tuple(scores.shape)}; it must be (queries, passages).")
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order[:, :k].tolist()


def _gains(relevant: Relevance) -> dict[Hashable, float]:
    gains = dict(relevant) if isinstance(relevant, Mapping) else dict.fromkeys(relevant, 1.0)
    return {passage: gain for passage, gain in gains.items() if gain > 0}


def _mean(metric, rankings: Sequence[Ranking], relevant: Sequence[Relevance], k: int) -> float:
    if k < 1:
        raise ValueError(f"k is {k}; the cut-off of a metric must be 1 or more.")
    if len(rankings) != len(relevant) or not rankings:
        raise ValueError(
            f"{len(rankings)} rankings for {len(relevant)} queries; give one ranking a query, one or more."
        )
    gains = [_gains(one) for one in relevant]
    without = [i for i, one in enumerate(gains) if not one]
    if without:
        raise ValueError(f"Query {without[0]} has no relevant passage; leave such queries out.")
    return sum(metric(ranking[:k], one, k) for ranking, one in zip(rankings, gains, strict=True)) / len(rankings)


def _reciprocal_rank(ranking: Ranking, gains: dict[Hashable, float], k: int) -> float:
    return next((1 / rank for rank, passage in enumerate(ranking, 1) if passage in gains), 0.0)


def _ndcg(ranking: Ranking, gains: dict[Hashable, float], k: int) -> float:
    best = sorted(gains.values(), reverse=True)[:k]
    return _discounted([gains.get(passage, 0.0) for passage in ranking]) / _discounted(best)


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _recall(ranking: Ranking, gains: dict[Hashable, float], k: int) -> float:
    return sum(passage in gains for passage in ranking) / len(gains)
