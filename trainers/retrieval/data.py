"""What a retriever is evaluated on: queries, passages, and which passage is relevant to which query."""

import logging
import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, TypeAlias

from ..data.texts import passage_text

logger = logging.getLogger(__name__)
_WHERE = {"queries": "queries", "corpus": "corpus", "qrels": "qrels"}
# {passage id: grade}, or the ids of the relevant passages, each of grade 1
Judgements: TypeAlias = Mapping[Any, float] | Set[Any] | list[Any] | tuple[Any, ...]


@dataclass
class RetrievalData:
    """Checked data, see `make_retrieval_data`.

    Attributes:
        queries: {query id: text}, each with a relevant passage.
        corpus: {passage id: text}, title first.
        qrels: {query id: {passage id: grade}}, of the queries above; a grade above 0 is relevant.
        left_out: queries without a relevant passage, which cannot be scored.
        absent_queries: judged queries that have no text, and are left out.
        absent_passages: passages that are relevant to a query and not in the corpus: they count as not found.
        bare: {passage id: text without its title}, of passages that have a title and a query's id.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, float]]
    left_out: int = 0
    absent_queries: int = 0
    absent_passages: int = 0
    bare: dict[str, str] = field(default_factory=dict)

    def is_passage(self, query: str) -> bool:
        """Whether a query is the passage of the same id: its text, with or without the title, white space aside."""
        words = self.queries[query].split()
        return any(query in texts and texts[query].split() == words for texts in (self.corpus, self.bare))


def make_retrieval_data(
    queries: Mapping[str, str],
    corpus: Mapping[str, str | Mapping[str, str]],
    qrels: Mapping[str, Judgements],
    where: Mapping[str, str] = _WHERE,
) -> RetrievalData:
    """The data, without queries that have no relevant passage; warnings say what is left out or not there.

    Judgements may name what is not there, as those of ArguAna do: a query without a text is left out, and a passage
    that is not in the corpus counts as one that was not found, as in pytrec_eval.

    Args:
        corpus: {passage id: text}, or {passage id: {"title": ..., "text": ...}}.
        qrels: {query id: {passage id: grade}}, or {query id: ids of relevant passages}; an id that is a number names
            the text whose id is that number in digits, and the other way round.
        where: what an error calls each of the three, such as the name of its file.

    Raises ValueError for an empty corpus, no query to score, and no relevant passage in the corpus; TypeError for
    judgements and texts of another form.
    """
    for name, texts in (("queries", queries), ("corpus", corpus), ("qrels", qrels)):
        if not isinstance(texts, Mapping):
            raise TypeError(
                f"{where[name]} is a {type(texts).__name__} and must be a dict by id, such as {{'q1': ...}}."
            )
        if not texts and name != "qrels":
            raise ValueError(f"{where[name]} is empty, and needs one row or more: give some.")
    asked = {key: _text(text, f"{where['queries']}, {key!r}") for key, text in queries.items()}
    passages = {key: _text(text, f"{where['corpus']}, {key!r}") for key, text in corpus.items()}
    judged = _judged(qrels, asked, passages, where["qrels"])
    kept = {key: text for key, text in asked.items() if _relevant(judged.get(key, {}))}
    absent = {passage for key in kept for passage in _relevant(judged[key]) if passage not in passages}
    unasked = [key for key in judged if key not in asked]
    bare = {key: one["text"] for key in kept if isinstance(one := corpus.get(key), Mapping)}
    data = RetrievalData(
        kept, passages, {key: judged[key] for key in kept}, len(asked) - len(kept), len(unasked), len(absent), bare
    )
    _check_some(data, judged, where)
    _warn(data, unasked, absent, where)
    return data


def _text(value: Any, where: str) -> str:
    if isinstance(value, Mapping):
        return passage_text(value, where)
    if not isinstance(value, str):
        raise TypeError(f"{where} is {value!r} and must be a text, or a dict with 'title' and 'text'.")
    return value


def _judged(qrels: Mapping[Any, Any], queries: Any, passages: Any, where: str) -> dict[Any, dict[Any, float]]:
    """The judgements with the ids that the texts have."""
    query_numbers, passage_numbers = _numbers(queries), _numbers(passages)
    judged: dict[Any, dict[Any, float]] = {}
    for query, judgements in qrels.items():
        grades = judged.setdefault(_known(query, queries, query_numbers), {})
        for passage, grade in _grades(judgements, f"{where}, {query!r}").items():
            grades[_known(passage, passages, passage_numbers)] = grade
    return judged


def _numbers(texts: Iterable[Any]) -> dict[str, Any]:
    return {str(key): key for key in texts if not isinstance(key, str)}


def _known(key: Any, texts: Any, numbers: dict[str, Any]) -> Any:
    # Other libraries have ids as numbers on one side, and as texts on the other.
    return next((one for one in (key, str(key)) if one in texts), numbers.get(str(key), key))


def _grades(judgements: Any, where: str) -> dict[Any, float]:
    if isinstance(judgements, Mapping):
        return {passage: _grade(grade, f"{where}, {passage!r}") for passage, grade in judgements.items()}
    is_listed = isinstance(judgements, Set | list | tuple)
    if not is_listed or not all(isinstance(passage, str | Integral) for passage in judgements):
        raise TypeError(
            f"{where} is {judgements!r}: give {{passage id: grade}}, or a set or list of the relevant passages' ids."
        )
    return dict.fromkeys(judgements, 1.0)


def _grade(grade: Any, where: str) -> float:
    try:
        value = math.nan if isinstance(grade, str | bytes) else float(grade)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: the grade is {grade!r}; it must be a finite number, above 0 where relevant.")
    return value


def _relevant(grades: Mapping[Any, float]) -> list[Any]:
    return [passage for passage, grade in grades.items() if grade > 0]


def _check_some(data: RetrievalData, judged: Mapping[Any, Any], where: Mapping[str, str]) -> None:
    if judged and data.absent_queries == len(judged):
        raise ValueError(
            f"{where['qrels']} judges {len(judged)} queries and none of {where['queries']}, such as "
            f"{next(iter(judged))!r}: compare the ids."
        )
    if not data.queries:
        raise ValueError(f"{where['qrels']}: no query has a relevant passage: give some of them a grade above 0.")
    if not any(passage in data.corpus for grades in data.qrels.values() for passage in _relevant(grades)):
        first = _relevant(next(iter(data.qrels.values())))[0]
        raise ValueError(
            f"None of the relevant passages of {where['qrels']} is in {where['corpus']}, such as {first!r}: compare "
            "the ids."
        )


def _warn(data: RetrievalData, unasked: list[Any], absent: set[Any], where: Mapping[str, str]) -> None:
    if data.left_out:
        counts = (where["queries"], data.left_out, data.left_out + len(data.queries))
        logger.warning("%s: %d of %d queries have no relevant passage and are left out.", *counts)
    if unasked:
        named = (where["qrels"], len(unasked), where["queries"], unasked[0])
        logger.warning("%s judges %d queries that %s lacks, such as %r: they are left out.", *named)
    if absent:
        named = (where["qrels"], len(absent), where["corpus"], min(absent, key=str))
        logger.warning(
            "%s: %d relevant passages are not in %s, such as %r: they count as not found, as in pytrec_eval.", *named
        )
