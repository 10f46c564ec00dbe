"""Several retrieval data sets, evaluated by name, and the means over them."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from hub_cards.travelling.checks import checked

from .beir import load_retrieval_data
from .evaluator import RetrievalEvaluator

MEAN = "mean"


@checked
def load_evaluators(
    source: str | Path, split: str | None = None, revision: str | None = None, **settings: Any
) -> dict[str, RetrievalEvaluator]:
    """An evaluator for each data set at `source`, by name; see `load_retrieval_data` for the forms.

    `settings` are keywords of `RetrievalEvaluator`, such as `ks`.
    """
    found = load_retrieval_data(source, split, revision)
    _refuse_mean(found)
    return {name: RetrievalEvaluator(data, **settings) for name, data in found.items()}


def evaluate_all(
    evaluators: Mapping[str, RetrievalEvaluator], evaluate: Callable[[RetrievalEvaluator], Mapping[str, float]]
) -> dict[str, float]:
    """`evaluate` of each, its name before its metrics (`nq_ndcg@10`), and the means of several (`mean_ndcg@10`).

    A single evaluator under the name "" keeps its metrics' names. Raises ValueError for one called "mean".
    """
    _refuse_mean(evaluators)
    found = {name: evaluate(evaluator) for name, evaluator in evaluators.items()}
    if len(found) > 1:
        found[MEAN] = means(found)
    return {f"{name}_{key}" if name else key: value for name, one in found.items() for key, value in one.items()}


def _refuse_mean(names: Collection[str]) -> None:
    if MEAN in names:
        raise ValueError(f"A data set is called {MEAN!r}, which is the name of the means over all: call it otherwise.")


def means(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Means over data sets, each counting once, of the metrics that all of them have."""
    first, *others = found.values()
    shared = [key for key in first if all(key in other for other in others)]
    return {key: sum(one[key] for one in found.values()) / len(found) for key in shared}
