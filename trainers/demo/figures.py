"""The demo's figures: how well each text was predicted, in which way, and how sure a difference is."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from modeling_srlm import SelfRetrievalLM, SelfRetrievalOutput

from ..perplexity.data import TokenizedDocument

RESAMPLES = 10_000
LEAST_UNITS = 5  # of fewer texts or queries an interval would say nothing


class Interval(NamedTuple):
    """A mean with its 95 % interval; `low` and `high` are None where there are too few units for one."""

    mean: float
    low: float | None = None
    high: float | None = None

    def relative(self) -> "Interval":
        """Of a difference of losses the relative change of the perplexity."""
        return Interval(*(None if value is None else math.expm1(value) for value in self))  # type: ignore[arg-type]

    def sure(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired(after: Sequence[float], before: Sequence[float], seed: int = 0) -> Interval:
    """Mean of `after` less `before`, of the same units in the same order, with its paired bootstrap interval.

    >>> paired([2.0] * 6, [1.0] * 6)
    Interval(mean=1.0, low=1.0, high=1.0)
    >>> paired([2.0, 3.0], [1.0, 1.0])
    Interval(mean=1.5, low=None, high=None)
    """
    differences = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    if len(differences) < LEAST_UNITS:
        return Interval(float(differences.mean()))
    drawn = np.random.default_rng(seed).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(differences.mean()), float(low), float(high))


@dataclass(frozen=True)
class Reading:
    """One text as it was read in one way.

    Attributes:
        kind: what the text is, "code" or "prose". mode: "exact", or "reuse" for kept states.
        stage: "before" or "after" the retriever was fine-tuned.
        losses: mean loss of each target chunk, in nats a token. targets: their numbers.
        retrieved, scores: what each target looked back at, most relevant first.
        seconds: of CPU time.
    """

    kind: str
    text: str
    mode: str
    method: str
    stage: str
    losses: list[float]
    targets: list[int]
    retrieved: list[list[int]]
    scores: list[list[float | None]]
    seconds: float

    def loss(self, chunks: int) -> float:
        """Mean loss of the last so many chunks, which are of one size."""
        return float(np.mean(self.losses[-chunks:]))

    def as_row(self) -> dict[str, Any]:
        return asdict(self)

    def output(self) -> SelfRetrievalOutput:
        """What the model returned."""
        scores = [[float("-inf") if score is None else score for score in row] for row in self.scores]
        return SelfRetrievalOutput(
            loss=torch.tensor(self.loss(len(self.losses))),
            target_losses=torch.tensor([self.losses]),
            target_indices=torch.tensor([self.targets]),
            retrieved_indices=torch.tensor([self.retrieved]),
            retrieved_scores=torch.tensor([scores]),
        )


def readings_of(output: SelfRetrievalOutput, texts: Sequence[str], seconds: float, **place: str) -> list[Reading]:
    """A reading of each of the texts that are the output's rows, scored in the same chunks.

    Args:
        seconds: those of all of them. place: kind, mode, method and stage.
    """
    rows = (output[name].tolist() for name in ("target_losses", "target_indices", "retrieved_indices"))
    scores = [[[_finite(one) for one in target] for target in row] for row in output["retrieved_scores"].tolist()]
    return [
        Reading(text=text, seconds=seconds / len(texts), losses=losses, targets=targets, retrieved=retrieved,
                scores=row, **place)
        for text, losses, targets, retrieved, row in zip(texts, *rows, scores, strict=True)
    ]  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


Way = tuple[str, str, str]  # mode, method and stage
Text = tuple[str, str]  # kind and name


class Findings(NamedTuple):
    """What a loop found.

    Attributes:
        lm, retriever: the models' names. lm_size: parameters of the former.
        documents: the held-out texts by kind.
        chunks: the last so many chunks of each text are what all ways of reading scored.
        ranks: of each docstring's code, by retriever: "BM25", "before" and "after" its fine-tuning.
        histories: the logs of the trainings, by title. rows: how many were scored, by what they are made of.
        reloaded: figure here and in the fresh process, by repo.
        note: what the page should say of the texts. read_on: with kept states so many times `chunks` were scored.
    """

    lm: str
    lm_size: int
    retriever: str
    readings: list[Reading]
    documents: dict[str, list[TokenizedDocument]]
    chunks: int
    ranks: dict[str, list[int]]
    histories: dict[str, list[dict[str, float]]]
    rows: dict[str, int]
    reloaded: dict[str, tuple[float, float]]
    srlm: SelfRetrievalLM
    note: str = ""
    read_on: int = 1

    @property
    def ways(self) -> "Ways":
        return Ways(self.readings, self.chunks)


class Ways:
    """Readings by way; each way read the same texts, or some of them."""

    def __init__(self, readings: Sequence[Reading], chunks: int):
        self.chunks = chunks
        self.by_way: dict[Way, dict[Text, Reading]] = {}
        for one in readings:
            self.by_way.setdefault((one.mode, one.method, one.stage), {})[one.kind, one.text] = one

    def texts(self, way: Way, kind: str | None = None) -> list[Text]:
        """(kind, name) of the texts read in this way."""
        return [text for text in self.by_way.get(way, {}) if kind in (None, text[0])]

    def perplexity(self, way: Way, texts: Sequence[Text]) -> float:
        """Of these texts, which weigh the same."""
        return math.exp(float(np.mean([self.by_way[way][text].loss(self.chunks) for text in texts])))

    def change(self, way: Way, base: Way, kind: str | None = None) -> tuple[Interval, list[Text]]:
        """Relative change of the perplexity from one way to another on the texts that both read, and these texts."""
        both = [text for text in self.texts(way, kind) if text in self.by_way[base]]
        after, before = ([self.by_way[one][text].loss(self.chunks) for text in both] for one in (way, base))
        return paired(after, before).relative(), both

    def seconds(self, way: Way) -> float:
        """CPU seconds a text."""
        return float(np.mean([reading.seconds for reading in self.by_way[way].values()]))
