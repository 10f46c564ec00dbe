"""Retrieval metrics: the functions, and the module for Hugging Face `evaluate` that they are the core of.

The functions live in the module's folder, which has to be complete: it can be loaded by its path, copied and pushed.
"""

from pathlib import Path
from typing import Any

import torch

from hub_cards.travelling.checks import check_positive_int, checked

from ..metric_modules.retrieval_metrics.ranking_metrics import (
    DEFAULT_METRICS,
    METRICS,
    Ranking,
    Relevance,
    check_metrics,
    hit_rate,
    mean_average_precision,
    mean_reciprocal_rank,
    ndcg,
    precision,
    rank_by_score,
    recall,
    retrieval_metrics,
    run_metrics,
)

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "Ranking",
    "Relevance",
    "check_metrics",
    "hit_rate",
    "load_metric",
    "mean_average_precision",
    "mean_reciprocal_rank",
    "metrics_path",
    "ndcg",
    "precision",
    "push_metric",
    "rank_by_score",
    "rank_passages",
    "recall",
    "retrieval_metrics",
    "run_metrics",
]
_MODULE = "retrieval_metrics"


def metrics_path() -> str:
    """The folder of the `evaluate` module, for `evaluate.load(metrics_path())`; README.md in it is its card."""
    return str(Path(__file__).parents[1] / "metric_modules" / _MODULE)


def load_metric(**kwargs: Any) -> Any:
    """The `evaluate` module with all metrics; `kwargs` are those of `evaluate.load`, such as `experiment_id`.

    >>> metric = load_metric()  # doctest: +SKIP
    >>> metric.compute(predictions={"q": {"a": 0.9, "b": 0.8}}, references={"q": {"b": 1}}, ks=[10])  # doctest: +SKIP
    """
    import evaluate  # slow to import, and few need it

    return evaluate.load(metrics_path(), **kwargs)


@checked
def push_metric(repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
    """Sends the module to a Space of the Hub, made if missing, for `evaluate.load(repo_id)`; returns the commit's URL.

    Raises ValueError unless the Space is called `retrieval_metrics`: evaluate takes the script's name from it.
    """
    from huggingface_hub import HfApi

    if repo_id.count("/") != 1 or repo_id.split("/")[1] != _MODULE:
        raise ValueError(
            f"repo_id={repo_id!r} must be 'user/{_MODULE}', or evaluate does not find the module: rename it."
        )
    api = HfApi(token=token)
    api.create_repo(repo_id, repo_type="space", space_sdk="static", private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id, folder_path=metrics_path(), repo_type="space", ignore_patterns=["__pycache__/*", "*.pyc"],
        commit_message="Upload metric with Lookback",
    )  # fmt: skip
    return commit.commit_url


def rank_passages(scores: torch.Tensor, k: int) -> list[list[int]]:
    """The k best columns of each row of `scores` (queries, passages), best first; equal scores by column number."""
    check_positive_int("k", k, "give the number of passages to keep")
    if not isinstance(scores, torch.Tensor) or scores.is_complex():
        raise TypeError(f"scores is a {type(scores).__name__} and must be a tensor of numbers (queries, passages).")
    if scores.isnan().any():
        raise ValueError("scores has NaN, which has no rank: mend what made it.")
    if scores.ndim != 2:
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} must be (queries, passages): give a row for each query."
        )
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order[:, :k].tolist()
