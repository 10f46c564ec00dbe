"""What a retriever is evaluated on: queries, passages, and which passage is relevant to which query."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..data.texts import passage_text

logger = logging.getLogger(__name__)
_WHERE = {"queries": "queries", "corpus": "corpus", "qrels": "qrels"}


@dataclass
class RetrievalData:
    """Checked data, see `make_retrieval_data`.

    Attributes:
        queries: {query id: text}, each with a relevant passage.
        corpus: {passage id: text}, title first.
        qrels: {query id: {passage id: grade}}, of the queries above; a grade above 0 is relevant.
        left_out: queries without a relevant passage, which cannot be scored.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, float]]
    left_out: int = 0


def make_retrieval_data(
    queries: Mapping[str, str],
    corpus: Mapping[str, str | Mapping[str, str]],
    qrels: Mapping[str, Mapping[str, float]],
    where: Mapping[str, str] = _WHERE,
) -> RetrievalData:
    """The data, without queries that have no relevant passage; a warning says how many these are.

    Args:
        corpus: {passage id: text}, or {passage id: {"title": ..., "text": ...}}.
        where: what an error calls each of the three, such as the name of its file.

    Raises ValueError for an empty corpus, no query to score, and judgements that name unknown ids.
    """
    for name, texts in (("queries", queries), ("corpus", corpus)):
        if not texts:
            raise ValueError(f"{where[name]} is empty, and needs one row or more: give some.")
    passages = {
        key: text if isinstance(text, str) else passage_text(text, f"{where['corpus']}, {key!r}")
        for key, text in corpus.items()
    }
    _check_known("query", qrels, queries, where["qrels"], where["queries"])
    judged = dict.fromkeys(passage for grades in qrels.values() for passage in grades)
    _check_known("passage", judged, passages, where["qrels"], where["corpus"])
    kept = {
        query: text for query, text in queries.items() if any(grade > 0 for grade in qrels.get(query, {}).values())
    }
    if not kept:
        raise ValueError(f"{where['qrels']}: no query has a relevant passage: give some of them a grade above 0.")
    left_out = len(queries) - len(kept)
    if left_out:
        counts = (where["queries"], left_out, len(queries))
        logger.warning("%s: %d of %d queries have no relevant passage and are left out.", *counts)
    return RetrievalData(kept, passages, {query: dict(qrels[query]) for query in kept}, left_out)


def _check_known(kind: str, named: Any, known: Any, where: str, there: str) -> None:
    unknown = [key for key in named if key not in known]
    if unknown:
        found = f"{where} names {len(unknown)} {kind} ids that {there} lacks"
        raise ValueError(f"{found}, the first is {unknown[0]!r}: add or remove them.")
