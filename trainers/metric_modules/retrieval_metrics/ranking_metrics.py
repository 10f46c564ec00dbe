"""Retrieval metrics from ranked lists, as pure functions.

A ranking is a list of passage ids, best first; `relevant` maps each passage id that was judged to its gain (or is a
set of ids, each of gain 1), and a passage is relevant if its gain is above 0. Every metric lies in [0, 1] and is a
mean over the queries. Definitions are trec_eval's: nDCG with linear gain and log2 discount (Jarvelin & Kekalainen
2002), recall and average precision over all relevant passages, precision over k, however short the ranking.
"""

import array
import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

Ranking = Sequence[Hashable]
Relevance = Mapping[Hashable, float] | Collection[Hashable]
MOST = 2**31 - 1
DEFAULT_METRICS = ("mrr", "ndcg", "recall", "map")


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


def mean_average_precision(rankings: Sequence[Ranking], relevant: Sequence[Relevance], k: int) -> float:
    """MAP@k: sum of the precision at each rank up to k that holds a relevant passage, over all relevant passages.

    >>> mean_average_precision([["a", "b", "c"]], [{"a", "c"}], k=3)  # (1/1 + 2/3) / 2
    0.8333333333333333
    """
    return _mean(_average_precision, rankings, relevant, k)


def precision(rankings: Sequence[Ranking], relevant: Sequence[Relevance], k: int) -> float:
    """Precision@k: the share of the k places that relevant passages take.

    >>> precision([["a", "b", "c"]], [{"c", "d"}], k=4)
    0.25
    """
    return _mean(_precision, rankings, relevant, k)


def hit_rate(rankings: Sequence[Ranking], relevant: Sequence[Relevance], k: int) -> float:
    """Hit rate@k: the share of the queries with a relevant passage among the first k.

    >>> hit_rate([["a", "b"], ["c", "d"]], [{"b"}, {"c"}], k=1)
    0.5
    """
    return _mean(_hit, rankings, relevant, k)


METRICS: dict[str, Callable[[Sequence[Ranking], Sequence[Relevance], int], float]] = {
    "mrr": mean_reciprocal_rank,
    "ndcg": ndcg,
    "recall": recall,
    "map": mean_average_precision,
    "precision": precision,
    "hit_rate": hit_rate,
}


def retrieval_metrics(
    rankings: Sequence[Ranking],
    relevant: Sequence[Relevance],
    ks: Sequence[int] = (10,),
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, float]:
    """{"mrr@10": ..., "ndcg@10": ..., "recall@10": ..., "map@10": ...} for each cut-off of `ks`.

    `metrics` are names of `METRICS`. Raises ValueError for another name, a cut-off below 1, a ranking that holds a
    passage twice, and a query without a relevant passage.
    """
    check_metrics(metrics, ks)
    return {f"{name}@{k}": METRICS[name](rankings, relevant, k) for k in ks for name in metrics}


def run_metrics(
    run: Mapping[str, Mapping[str, float] | Sequence[str]],
    qrels: Mapping[str, Relevance],
    ks: Sequence[int] = (10,),
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, float]:
    """The same for a run {query id: {passage id: score} or ranked passage ids}, as means over all queries of `qrels`.

    A query without results, or without a relevant passage, counts as 0 (trec_eval -c); one that `qrels` lacks does not
    count. Scores are ranked by `rank_by_score`. Raises ValueError where no query of the run is in `qrels`.
    """
    check_metrics(metrics, ks)
    run, qrels = ({str(query): _by_text(ids) for query, ids in one.items()} for one in (run, qrels))
    if not any(query in qrels for query in run):
        raise ValueError(
            f"None of the run's {len(run)} queries is among the {len(qrels)} of qrels; compare their ids."
        )
    judged = {query: relevance for query, relevance in qrels.items() if _gains(relevance)}
    if not judged:
        raise ValueError("No query of qrels has a relevant passage; grades above 0 are relevant.")
    results = [run.get(query, ()) for query in judged]
    rankings = [rank_by_score(result) if isinstance(result, Mapping) else result for result in results]
    means = retrieval_metrics(rankings, list(judged.values()), ks, metrics)
    return {name: mean * len(judged) / len(qrels) for name, mean in means.items()}


def _by_text(ids: Any) -> Any:
    """Passage ids, or what there is of each, as texts: one may be a number here and a text there."""
    return {str(one): ids[one] for one in ids} if isinstance(ids, Mapping) else [str(one) for one in ids]


def rank_by_score(scores: Mapping[str, float]) -> list[str]:
    """Passage ids by descending score; of equal scores the greater id (as text) comes first, as in trec_eval.

    As there, scores are compared as float32 numbers. Raises ValueError for a score that is no number.

    >>> rank_by_score({"a": 1.0, "b": 2.0, "c": 1.0})
    ['b', 'c', 'a']
    """
    rounded = array.array("f", scores.values())
    if any(math.isnan(score) for score in rounded):
        raise ValueError("A score of the run is NaN; scores must be numbers.")
    pairs = sorted(zip(rounded, scores, strict=True), key=lambda pair: (pair[0], str(pair[1])), reverse=True)
    return [passage for _, passage in pairs]


def check_metrics(metrics: Sequence[str], ks: Sequence[int]) -> None:
    """Raises TypeError or ValueError for metrics that there are not, and cut-offs that are no whole numbers from 1."""
    if isinstance(metrics, str | bytes) or not isinstance(metrics, Collection):
        raise TypeError(f"metrics={metrics!r} must be a list of names; give some of {', '.join(METRICS)}.")
    if isinstance(ks, str | bytes | Mapping) or not isinstance(ks, Collection):
        raise TypeError(f"ks={ks!r} must be a list of cut-offs, such as [10, 100].")
    unknown = [name for name in metrics if not isinstance(name, str) or name not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"There is no metric {(unknown or [''])[0]!r}; the metrics are {', '.join(METRICS)}.")
    if not ks:
        raise ValueError("ks is empty; give one cut-off or more, such as 10.")
    for k in ks:
        _check_cutoff(k)


def _check_cutoff(k: int) -> None:
    if not isinstance(k, Integral) or isinstance(k, bool) or not 1 <= k <= MOST:
        raise ValueError(f"k is {k!r}; the cut-off of a metric must be a whole number from 1 to {MOST}.")


def _gains(relevant: Relevance) -> dict[Hashable, float]:
    gains = dict(relevant) if isinstance(relevant, Mapping) else dict.fromkeys(relevant, 1.0)
    for passage, gain in gains.items():
        if not isinstance(gain, Real) or not math.isfinite(gain):
            raise ValueError(f"The gain of {passage!r} is {gain!r}; it must be a finite number.")
    return {passage: gain for passage, gain in gains.items() if gain > 0}


def _mean(
    metric: Callable[[Ranking, dict[Hashable, float], int], float],
    rankings: Sequence[Ranking],
    relevant: Sequence[Relevance],
    k: int,
) -> float:
    _check_cutoff(k)
    for name, value in (("rankings", rankings), ("relevant", relevant)):
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise TypeError(
                f"{name} is a {type(value).__name__}; it must be a list with the passage ids of each query."
            )
        for number, one in enumerate(value):
            if isinstance(one, str | bytes) or not isinstance(one, Collection):
                raise TypeError(f"{name}[{number}] is {one!r}; it must hold the passage ids of a query.")
    if len(rankings) != len(relevant) or not rankings:
        raise ValueError(
            f"{len(rankings)} rankings for {len(relevant)} queries; give one ranking a query, one or more."
        )
    gains = [_gains(one) for one in relevant]
    for number, (ranking, one) in enumerate(zip(rankings, gains, strict=True)):
        if not one:
            raise ValueError(f"Query {number} has no relevant passage; leave such queries out.")
        if len(set(ranking)) < len(ranking):
            raise ValueError(f"The ranking of query {number} holds a passage twice; leave all but the first out.")
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


def _average_precision(ranking: Ranking, gains: dict[Hashable, float], k: int) -> float:
    ranks = [rank for rank, passage in enumerate(ranking, 1) if passage in gains]
    return sum(found / rank for found, rank in enumerate(ranks, 1)) / len(gains)


def _precision(ranking: Ranking, gains: dict[Hashable, float], k: int) -> float:
    return sum(passage in gains for passage in ranking) / k


def _hit(ranking: Ranking, gains: dict[Hashable, float], k: int) -> float:
    return float(any(passage in gains for passage in ranking))
