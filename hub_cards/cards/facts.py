"""What a card can say about a run, and what it says about a family."""

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from huggingface_hub import EvalResult

from ..travelling.checks import nearest

PLACEHOLDER = "path/to/this/repo"  # in the code of a card that was saved without a repo id; a push puts the id there
RELATIONS = ("finetune", "adapter", "merge", "quantized")


@dataclass(frozen=True)
class Family:
    """Metadata that all models of one `model_type` share; `template` is a file name in `cards/templates`."""

    template: str
    pipeline_tag: str
    tags: tuple[str, ...]


FAMILIES = {
    "lookback_biencoder": Family(
        "biencoder.md.jinja",
        "sentence-similarity",
        ("bi-encoder", "retrieval", "feature-extraction", "sentence-transformers"),
    ),
    "lookback_llara": Family("llara.md.jinja", "feature-extraction", ("llara", "retrieval", "text-generation")),
    "lookback_srlm": Family("srlm.md.jinja", "text-generation", ("self-retrieval", "long-context", "retrieval")),
}


# Facts that are texts, and whether they may be several.
_TEXTS = {
    "repo_id": False, "base_model": False, "base_revision": False, "license": False, "language": True,
    "datasets": True, "evaluation_data": False,
}  # fmt: skip


@dataclass(frozen=True)
class CardFacts:
    """Facts of a run for its card; all are optional, and what is not given is not written.

    Attributes:
        repo_id: the repo, `user/name`, that the loading code of the card names; default a placeholder.
        base_model: repo id of the model trained on; default the backbone's, where it was loaded from the Hub.
        base_revision: its commit; default the one that the backbone was loaded from.
        base_model_relation: "finetune", "adapter", "merge" (of several models) or "quantized"; default "adapter" for
            an adapter alone, else "finetune".
        license: identifier that the Hub knows, such as "apache-2.0"; default the one in the card of the folder that
            the model comes from. A push fills in that of the base model's card. None is made up.
        language: codes such as "en", or a list.
        datasets: repo ids of the training data sets.
        data: what was trained on, in words; default `datasets`.
        training: setting -> value, for the table of the training.
        losses: curves for a picture, as in {"training": [(step, loss), ...], "evaluation": [...]}.
        metrics: metric name -> number, as in {"mrr@10": 0.431}; those with an @ and perplexities are also the card's
            `model-index`, if they are finite.
        evaluation_data: the data that `metrics` were measured on, a repo id or a name in your words.
    """

    repo_id: str | None = None
    base_model: str | None = None
    base_revision: str | None = None
    base_model_relation: str | None = None
    license: str | None = None
    language: str | list[str] | None = None
    datasets: str | list[str] | None = None
    data: Sequence[str] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluation_data: str = "evaluation set of the run"

    def __post_init__(self) -> None:
        if self.base_model_relation not in (None, *RELATIONS):
            raise ValueError(f"base_model_relation is {self.base_model_relation!r}; it must be one of {RELATIONS}.")
        for name, lists in _TEXTS.items():
            value = getattr(self, name)
            if isinstance(value, tuple) and lists:
                object.__setattr__(self, name, value := list(value))
            several = lists and isinstance(value, list) and all(isinstance(one, str) for one in value)
            if not (value is None or isinstance(value, str) or several):
                kind = "a string or a list of strings" if lists else "a string"
                raise TypeError(f"{name} is {value!r} but must be {kind}.")
        for name in ("training", "losses", "metrics"):
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
                raise ValueError(
                    f"a card has no fact {name!r}: did you mean {nearest(name, known)}? It takes {known}."
                )
        return cls(**facts)

    def eval_results(self, task_type: str) -> list[EvalResult]:
        """One result of the card's `model-index` for each metric that other models have, too: losses are no such."""
        return [
            EvalResult(
                task_type=task_type,
                dataset_type=re.sub(r"[^\w./-]+", "-", self.evaluation_data),
                dataset_name=self.evaluation_data,
                metric_type=name,
                metric_value=float(value),
            )
            for name, value in self.metrics.items()
            if ("@" in name or name.endswith("perplexity")) and math.isfinite(value)
        ]
