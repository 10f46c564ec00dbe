"""MRR, nDCG, recall, MAP, precision and hit rate at k, for Hugging Face `evaluate`."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

from .ranking_metrics import DEFAULT_METRICS, METRICS, check_metrics, rank_by_score, run_metrics

_DESCRIPTION = """
Metrics of a retrieval run against relevance judgements: MRR, nDCG, recall, MAP, precision and hit rate, each at one or
more cut-offs k. Definitions, and the order of equal scores, are trec_eval's.
"""

_INPUTS = f"""
Args:
    predictions: a run {{query id: {{passage id: score}}}} or {{query id: [passage ids, best first]}}; or a list
        with one such value for each query.
    references: judgements {{query id: {{passage id: grade}}}}, or a list of {{passage id: grade}} (or of lists of the
        relevant passages' ids), in the order of the predictions. A grade above 0 is relevant, and is the gain of nDCG.
    ks: cut-offs, by default [10].
    metrics: names among {", ".join(METRICS)}; by default {", ".join(DEFAULT_METRICS)}.

Returns:
    {{"mrr@10": ..., "ndcg@10": ..., ...}}: means over the queries of `references`. A query without results counts as
    0, as does one without a relevant passage; queries that `references` lack do not count.

Examples:
    >>> metric = evaluate.load("path/to/retrieval_metrics")
    >>> run = {{"q1": {{"a": 0.9, "b": 0.8}}, "q2": {{"c": 0.7, "d": 0.1}}}}
    >>> metric.compute(predictions=run, references={{"q1": {{"b": 1}}, "q2": {{"c": 1}}}}, metrics=["mrr"])
    {{'mrr@10': 0.75}}
"""

_CITATION = """
@article{jarvelin2002cumulated,
  title = {Cumulated gain-based evaluation of {IR} techniques},
  author = {J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
  journal = {ACM Transactions on Information Systems},
  volume = {20},
  number = {4},
  year = {2002}
}
"""


class RetrievalMetrics(evaluate.Metric):
    """See `inputs_description`. One stored example is one query: its ranked passages, and those that were judged."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Sequence(datasets.Value("string"))
        features = {
            "predictions": {"passages": texts},
            "references": {"passages": texts, "grades": datasets.Sequence(datasets.Value("float64"))},
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://github.com/usnistgov/trec_eval"],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add the predictions and references of some queries to those that `compute` will read."""
        if isinstance(references, Mapping):
            if not isinstance(predictions, Mapping):
                raise ValueError("references are by query id, predictions are not; give both as {query id: ...}.")
            if not any(query in references for query in predictions):
                raise ValueError("No query id of the predictions is in the references; compare both.")
            predictions = [predictions.get(query, []) for query in references]
            references = list(references.values())
        elif isinstance(predictions, Mapping):
            raise ValueError("predictions are by query id, references are not; give both as {query id: ...}.")
        super().add_batch(
            predictions=[_ranked(one) for one in predictions],
            references=[_judged(one) for one in references],
            **kwargs,
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add the prediction and the reference of one query to those that `compute` will read."""
        super().add(prediction=_ranked(prediction), reference=_judged(reference), **kwargs)

    def _compute(
        self,
        *,
        predictions: Any = None,
        references: Any = None,
        ks: Sequence[int] = (10,),
        metrics: Sequence[str] = DEFAULT_METRICS,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if kwargs:
            raise TypeError(f"compute takes predictions, references, ks and metrics, not {sorted(kwargs)}.")
        run = {str(number): one["passages"] for number, one in enumerate(predictions)}
        qrels = {
            str(number): dict(zip(one["passages"], one["grades"], strict=True))
            for number, one in enumerate(references)
        }
        return run_metrics(run, qrels, [ks] if isinstance(ks, int) else ks, metrics)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """Compute the metrics of what was added and of what is given here."""
        ks = kwargs.get("ks", (10,))
        # Before anything is stored: evaluate would keep what was added, and count it in the next call.
        check_metrics(kwargs.get("metrics", DEFAULT_METRICS), [ks] if isinstance(ks, int) else ks)
        return super().compute(predictions=predictions, references=references, **kwargs)


def _ranked(prediction: Any) -> dict[str, list[str]]:
    passages = rank_by_score(prediction) if isinstance(prediction, Mapping) else list(prediction)
    return {"passages": passages}


def _judged(reference: Any) -> dict[str, list]:
    grades = dict(reference) if isinstance(reference, Mapping) else dict.fromkeys(reference, 1.0)
    return {"passages": list(grades), "grades": [float(grade) for grade in grades.values()]}
