"""What a card can say about a run, and what it says about a family."""

import difflib
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from huggingface_hub import EvalResult


@dataclass(frozen=True)
class Family:
    """Metadata that all models of one `model_type` share; `template` is a file name in `hub_cards/templates`."""

    template: str
    pipeline_tag: str
    tags: tuple[str, ...]


FAMILIES = {
    "lookback_biencoder": Family(
        "biencoder.md.jinja", "sentence-similarity", ("bi-encoder", "retrieval", "feature-extraction")
    ),
    "lookback_llara": Family("llara.md.jinja", "feature-extraction", ("llara", "retrieval", "text-generation")),
    "lookback_srlm": Family("srlm.md.jinja", "text-generation", ("self-retrieval", "long-context", "retrieval")),
}


@dataclass(frozen=True)
class CardFacts:
    """Facts of a run for its card; all are optional, and what is not given is not written.

    Attributes:
        repo_id: the repo, `user/name`, that the loading code of the card names; default a placeholder.
        base_model: repo id of the model trained on; default the backbone's, where it was loaded from the Hub.
        license: identifier that the Hub knows, such as "apache-2.0".
        language: codes such as "en", or a list.
        datasets: repo ids of the training data sets.
        training: setting -> value, for the table of the training.
        metrics: metric name -> number, as in {"mrr@10": 0.431}; also the card's `model-index`.
        evaluation_data: the data that `metrics` were measured on, a repo id or a name in your words.
    """

    repo_id: str | None = None
    base_model: str | None = None
    license: str | None = None
    language: str | list[str] | None = None
    datasets: str | list[str] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluation_data: str = "evaluation set of the run"

    def __post_init__(self) -> None:
        for name in ("training", "metrics"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise TypeError(f"{name} is a {type(value).__name__} but must be a dict of name -> value.")
        for name, number in self.metrics.items():
            if isinstance(number, bool) or not isinstance(number, numbers.Real):
                raise TypeError(
                    f"metrics[{name!r}] is {number!r} ({type(number).__name__}) but must be a number: pass float(...)."
                )

    @classmethod
    def from_keywords(cls, facts: Mapping[str, Any]) -> Self:
        """The facts as an object; ValueError for an unknown name, with the nearest valid one."""
        known = [fact.name for fact in fields(cls)]
        for name in facts:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise ValueError(f"a card has no fact {name!r}: did you mean {nearest!r}? It takes {known}.")
        return cls(**facts)

    def eval_results(self, task_type: str) -> list[EvalResult]:
        """One result of the card's `model-index` for each metric."""
        return [
            EvalResult(
                task_type=task_type,
                dataset_type=self.evaluation_data,
                dataset_name=self.evaluation_data,
                metric_type=name,
                metric_value=float(value),
            )
            for name, value in self.metrics.items()
        ]
