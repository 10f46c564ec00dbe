"""Other teachers than a language model: cross-encoders and bi-encoders that score query rows.

A cross-encoder's scores are those of sentence-transformers' `CrossEncoder.predict`, its activation included; a
bi-encoder's those of `model.similarity`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.published_biencoder import NO_PRESET, recognised
from modeling_biencoder.sentence_transformers_biencoder import SETTINGS, read_sentence_transformer

from ..data.sources import Row, text_field
from ..models.identity import dtype_settings, encoding_settings, fingerprint
from ..models.kind import Found, find_file, look, place_of, weights_of
from ..models.load import load_biencoder
from .formats import read_candidates
from .rows import BATCHES_A_GROUP, DECIMALS, GroupedRows

CROSS_ENCODER, BIENCODER = "CrossEncoder", "bi-encoder"
_CLASSIFIER = "ForSequenceClassification"


class Candidates(NamedTuple):
    """What a teacher is asked of a row."""

    query: str
    texts: list[str]
    task: str | None


def read_for_teacher(row: Row, number: int) -> Candidates:
    """What a teacher is asked of a row, the row `number` of its data; RowError for one that it cannot be asked of."""
    task = row.get("task")
    texts = read_candidates(row, number)
    return Candidates(text_field(row, "query", number), texts, task if isinstance(task, str) else None)


class Teacher(ABC):
    """Scores candidates, so many texts or pairs at once."""

    def __init__(self, model: Any, batch_size: int):
        self.model, self.batch_size = model, batch_size

    @abstractmethod
    def score(self, rows: Sequence[Candidates]) -> list[list[float]]:
        """Of each row one score a candidate."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Whatever the scores depend on besides."""


class CrossEncoderTeacher(Teacher):
    """Scores by sentence-transformers' `CrossEncoder.predict`."""

    def score(self, rows: Sequence[Candidates]) -> list[list[float]]:
        """See `Teacher`."""
        pairs = [(row.query, text) for row in rows for text in row.texts]
        scores = iter(self.model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False).tolist())
        return [[next(scores) for _ in row.texts] for row in rows]

    def settings(self) -> dict[str, Any]:
        """See `Teacher`."""
        activation = type(self.model.activation_fn).__name__
        prompts = {"prompts": self.model.prompts, "default_prompt_name": self.model.default_prompt_name}
        length = getattr(self.model, "max_seq_length", None)  # sentence-transformers 6 and later
        of_model = {"max_length": length or self.model.max_length, "activation": activation, **prompts}
        return {**of_model, **fingerprint(self.model, self.model.tokenizer), **dtype_settings(self.model)}


class BiEncoderTeacher(Teacher):
    """Scores by the similarity of embeddings; a row's `task` chooses the prompts where the model has some for it."""

    def score(self, rows: Sequence[Candidates]) -> list[list[float]]:
        """See `Teacher`."""
        result: list[list[float]] = [[] for _ in rows]
        for task in dict.fromkeys(self._task(row) for row in rows):
            numbers = [number for number, row in enumerate(rows) if self._task(row) == task]
            queries = self._embed([rows[number].query for number in numbers], "query", task)
            passages = self._embed([text for number in numbers for text in rows[number].texts], "passage", task)
            sizes = [len(rows[number].texts) for number in numbers]
            for number, query, of_query in zip(numbers, queries, passages.split(sizes), strict=True):
                result[number] = self.model.similarity(query[None], of_query)[0].tolist()
        return result

    def _task(self, row: Candidates) -> str | None:
        return row.task if row.task in self.model.config.prompts else None

    def _embed(self, texts: list[str], role: str, task: str | None) -> torch.Tensor:
        return self.model.encode(texts, role, task, batch_size=self.batch_size, show_progress=False)

    def settings(self) -> dict[str, Any]:
        """See `Teacher`."""
        return encoding_settings(self.model) | dtype_settings(self.model)


class TeacherFeedback(GroupedRows):
    """Rows with `query` and `pos`, `neg` (or `history`), scored by a teacher; `answers` and `context` do not count."""

    def __init__(self, teacher: Teacher, rows: Sequence[Row], show_progress: bool = False):
        self.teacher = teacher
        super().__init__(rows, BATCHES_A_GROUP * teacher.batch_size, show_progress)

    def _count(self, number: int) -> int:
        return len(read_for_teacher(self.rows[number], number).texts)

    def _scores(self, numbers: Sequence[int]) -> list[list[float]]:
        found = self.teacher.score([read_for_teacher(self.rows[number], number) for number in numbers])
        return [[round(score, DECIMALS) for score in scores] for scores in found]


def load_teacher(
    source: str,
    batch_size: int,
    device: torch.device,
    pooling: str | None = None,
    preset: str | None = None,
    **loading: Any,
) -> Teacher:
    """The cross-encoder or bi-encoder of a Hub id or folder, on a device.

    Args:
        pooling, preset: of a bi-encoder, as `load_biencoder` takes them: with one of them it is no cross-encoder.
        loading: where the repo lies (`revision`, ...), `trust_remote_code`, and `dtype`.

    Raises ValueError for any other model, ImportError for a cross-encoder without sentence-transformers.
    """
    embeds = pooling is not None or preset is not None
    kind, place = (BIENCODER, loading) if embeds else teacher_kind(source, **loading)
    if kind == BIENCODER:
        model: BiEncoderModel = load_biencoder(source, pooling, preset, **loading)
        return BiEncoderTeacher(model.to(device), batch_size)  # type: ignore[arg-type]
    if "gguf_file" in place:
        raise ValueError(f"--gguf_file={place['gguf_file']!r} is for a bi-encoder, and {source!r} is a {kind}.")
    place = {**place, **weights_of(loading)}
    return CrossEncoderTeacher(_load_cross_encoder(source, batch_size, device, place), batch_size)


def teacher_kind(source: str, **loading: Any) -> tuple[str, dict[str, Any]]:
    """`CROSS_ENCODER` or `BIENCODER`, by the files of a folder or repo, and where it lies, at the commit looked at.

    Raises ValueError for a model that is neither.
    """
    place = place_of(loading)
    try:
        settings = find_file(source, SETTINGS, place)
        if settings is not None and _names_cross_encoder(Path(settings)):
            return CROSS_ENCODER, place
        found = look(source, **loading)
    except (OSError, ValueError):  # sentence-transformers may have the backbone in a folder of its own
        if read_sentence_transformer(source, place) is None:
            raise
        return BIENCODER, place
    if _is_biencoder(found):
        return BIENCODER, found.loading
    named = getattr(found.config, "architectures", None) or []
    if found.adapter is None and any(name.endswith(_CLASSIFIER) for name in named):
        return CROSS_ENCODER, found.loading
    what = f"an adapter of a {found.model_type}" if found.adapter is not None else f"a {', '.join(named) or 'model'}"
    raise ValueError(
        f"--teacher={source!r} is {what} and must be a cross-encoder (...{_CLASSIFIER}, or saved by "
        "sentence-transformers' CrossEncoder) or a bi-encoder: take one, or give a causal LM as --model."
    )


def _names_cross_encoder(settings: Path) -> bool:
    content = json.loads(settings.read_text(encoding="utf-8"))
    return isinstance(content, dict) and content.get("model_type") == CROSS_ENCODER


def _is_biencoder(found: Found) -> bool:
    if found.model_type.startswith("lookback_"):
        return found.model_type == BiEncoderConfig.model_type
    if read_sentence_transformer(found.source, found.loading) is not None:
        return True
    return recognised(found.source, found.loading) not in (None, NO_PRESET)


def _load_cross_encoder(source: str, batch_size: int, device: torch.device, place: dict[str, Any]) -> Any:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise ValueError(
            f"--teacher={source!r} is a cross-encoder and needs sentence-transformers, which is not installed: "
            "pip install sentence-transformers."
        ) from error
    code = place.get("trust_remote_code", False)
    where = {"revision": place.get("revision"), "trust_remote_code": code}
    model = CrossEncoder(source, device=str(device), model_kwargs=weights_of(place), **where)
    if model.num_labels != 1:
        raise ValueError(
            f"--teacher={source!r} has {model.num_labels} labels and must have one, the score: take a reranker."
        )
    if batch_size > 1 and model.tokenizer.pad_token is None:
        raise ValueError(
            f"--teacher={source!r} has no pad token and can only score one pair at once: give --batch_size 1, or set "
            "a pad token in its tokenizer and configuration."
        )
    return model.eval()
