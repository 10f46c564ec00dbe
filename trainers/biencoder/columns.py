"""Which columns of a table are query, positive, negatives and scores: every layout becomes rows of one form.

A layout is found by column names. It turns a row into `query`, `pos`, `neg` and, where a teacher or a person gave
scores, `teacher_scores` (positives first), which `rows.normalize_row` checks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.sources import Row, RowError, Table, text_field

ANCHORS = ("anchor", "query", "question", "sentence1", "text1")
POSITIVES = ("positive", "passage", "document", "context", "answer", "response", "sentence2", "text2")
NEGATIVE = re.compile(r"(?:hard_)?neg(?:ative)?s?(?:_?(\d+))?")
LISTS = ("passages", "docs", "documents", "candidates")
SCORES = ("score", "scores", "label", "labels", "similarity", "similarity_score")
# Texts about a row rather than of it: they make no pair or triplet.
ABOUT = ("id", "_id", "idx", "index", "qid", "query_id", "task", "type", "prompt", "category", "source", "lang")
ACCEPTED = f"""\
  - query, pos and neg (lists), with teacher_scores or pos_scores and neg_scores, if any
  - query and history (a list), with teacher_scores
  - {" | ".join(ANCHORS)}, then {" | ".join(POSITIVES)}, then negative, or negative_1 ... negative_n, if any; with \
score | label: a scored pair, or for negatives how far the positive is ahead of each
  - query, then {" | ".join(LISTS)} (a list), then {" | ".join(SCORES[1::2])} (a list)
  - any two text columns (a pair) or three (a triplet), with or without score | label"""


class QueryRows:
    """Rows that have query, pos and neg, or a chat's query and history: they stay as they are."""

    pair = scored = False

    def __call__(self, row: Row, number: int) -> Row:
        return row


@dataclass(frozen=True)
class TextColumns:
    """A column each for query and positive, any number for negatives, one for scores; a cell may be a list."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    score: str | None = None

    @property
    def pair(self) -> bool:
        """Whether a row can have no negatives of its own."""
        return not self.negatives

    @property
    def scored(self) -> bool:
        """Whether a row is two texts and how alike they are, rather than a query and what answers it."""
        return self.pair and self.score is not None

    def __call__(self, row: Row, number: int) -> Row:
        positives = _texts(row, self.positive, number)
        negatives = [
            text for name in self.negatives if row.get(name) is not None for text in _texts(row, name, number)
        ]
        found: Row = {"query": text_field(row, self.query, number), "pos": positives, "neg": negatives}
        if self.score is not None:
            found["teacher_scores"] = self._scores(row, len(positives), len(negatives), number)
        return {**found, "task": row.get("task")}

    def _scores(self, row: Row, num_positives: int, num_negatives: int, number: int) -> list[float]:
        """A pair's score; else a score for each text, or for each negative how far the positive is ahead of it."""
        name = str(self.score)
        value = row.get(name)
        scores: list[Any] = value if isinstance(value, list) else [value]
        if not all(map(is_number, scores)):
            raise _bad(number, name, value, "a number, or a list of numbers where there are negatives")
        if num_negatives and len(scores) == num_negatives:
            return [0.0] * num_positives + [-float(margin) for margin in scores]
        if len(scores) == num_positives + num_negatives:
            return [float(score) for score in scores]
        rule = f"{num_negatives} numbers (margins) or {num_positives + num_negatives} (scores), positives first"
        raise _bad(number, name, value, rule if num_negatives else f"{num_positives} numbers")


@dataclass(frozen=True)
class ListColumns:
    """A column for the query, a list of passages, and a list of their labels or scores.

    Labels that are all 0 or 1 part positives from negatives; of other numbers the highest makes the positive, and all
    are what a teacher thinks.
    """

    query: str
    passages: str
    labels: str
    pair = scored = False

    def __call__(self, row: Row, number: int) -> Row:
        texts, labels = _texts(row, self.passages, number), row.get(self.labels)
        if not isinstance(labels, list) or not all(map(is_number, labels)):
            raise _bad(number, self.labels, labels, "a list of numbers")
        if len(labels) != len(texts):
            raise _bad(number, self.labels, labels, f"as long as {self.passages!r}: {len(texts)} numbers")
        found: Row = {"query": text_field(row, self.query, number), "task": row.get("task")}
        if not set(labels) <= {0, 1}:
            return {**found, "pos": [], "neg": texts, "teacher_scores": labels}
        by_label = {
            kind: [text for text, label in zip(texts, labels, strict=True) if label == kind] for kind in (0, 1)
        }
        if not by_label[1]:
            raise _bad(number, self.labels, labels, "1 for one passage or more, or else scores")
        return {**found, "pos": by_label[1], "neg": by_label[0]}


Layout = QueryRows | TextColumns | ListColumns


def find_layout(table: Table) -> Layout:
    """The layout of a table; ValueError with its columns and the accepted ones where none fits."""
    where, first = next(iter(table), ("The data set", {}))
    if "query" in first and first.keys() & {"pos", "neg", "history"}:
        return QueryRows()
    kinds = table.kinds()  # of all rows: a column may come late
    if "query" in kinds and kinds.keys() & {"pos", "neg", "history"}:
        return QueryRows()
    kinds = {name: kind for name, kind in kinds.items() if kind != "none"}
    _check_named(kinds, where)
    anchor = _first(kinds, ANCHORS, "text")
    score = _first(kinds, SCORES, "number", "numbers")
    positive = _first(kinds, POSITIVES, "text", "texts")
    if anchor and positive:
        layout: Layout | None = TextColumns(anchor, positive, _negatives(kinds), score)
    elif anchor and score and (passages := _first(kinds, LISTS, "texts")):
        layout = ListColumns(anchor, passages, score)
    else:
        layout = _unnamed(kinds, score)
    if layout is None:
        columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ValueError(
            f"{where}: the columns {columns} are none of the layouts that load. Rename them to one of:\n{ACCEPTED}"
        )
    if layout.scored:
        _check_degree(table, kinds, score or "")
    return layout


def check_layouts(tables: Sequence[Table], layouts: Sequence[Layout], group_size: int) -> None:
    """ValueError for files of one data set that cannot share batches: the first and the first other one."""
    kinds = [
        "a scored pair" if layout.scored else "a pair" if layout.pair and group_size > 1 else "a query with passages"
        for layout in layouts
    ]
    other = next((number for number, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        places = [next(iter(tables[number]), ("The data set", {}))[0] for number in (0, other)]
        raise ValueError(
            f"{places[0]} is {kinds[0]}, and {places[1]} is {kinds[other]}, which do not share batches (group size "
            f"{group_size}): make a data set of each."
        )


def _check_named(kinds: dict[str, str], where: str) -> None:
    """ValueError for a column with a name of ours that does not hold what the name says, and no other that does.

    Passed over, it would change what the other columns are: of anchor, positive, negative the last two are a pair.
    """
    roles = ((ANCHORS, ("text",)), (POSITIVES, ("text", "texts")), (SCORES, ("number", "numbers")))
    negatives = tuple(name for name in kinds if NEGATIVE.fullmatch(name))
    for names, wanted in (*roles, *(((name,), ("text", "texts")) for name in negatives)):
        wrong = next((name for name in names if name in kinds), None)
        if wrong is not None and _first(kinds, names, *wanted) is None:
            rule = " or a list of ".join(("a number", "numbers") if "number" in wanted else ("a text", "texts"))
            raise ValueError(
                f"{where}: column {wrong!r} holds {_HELD[kinds[wrong]]} and must hold "
                f"{rule if len(wanted) > 1 else 'a text'}: mend it, or give it another name."
            )


_HELD = {
    "text": "texts",
    "texts": "lists of texts",
    "number": "numbers",
    "numbers": "lists of numbers",
    "other": "something else",
}


def _unnamed(kinds: dict[str, str], score: str | None) -> TextColumns | None:
    texts = [name for name, kind in kinds.items() if kind == "text" and name not in ABOUT]
    return TextColumns(texts[0], texts[1], tuple(texts[2:]), score) if len(texts) in (2, 3) else None


def _first(kinds: dict[str, str], names: tuple[str, ...], *wanted: str) -> str | None:
    return next((name for name in names if kinds.get(name) in wanted), None)


def _negatives(kinds: dict[str, str]) -> tuple[str, ...]:
    """The columns of negatives, by their number."""
    found = [(NEGATIVE.fullmatch(name), name) for name, kind in kinds.items() if kind in ("text", "texts")]
    return tuple(name for _, name in sorted((int(match[1] or 0), name) for match, name in found if match))


def _check_degree(table: Table, kinds: dict[str, str], score: str) -> None:
    """ValueError for labels that are classes rather than degrees: entailment, neutral, contradiction."""
    classes = table.classes(score)
    if len(classes) > 2 or {"premise", "hypothesis"} <= kinds.keys():
        raise ValueError(
            f"Column {score!r} holds classes{f' {classes}' if classes else ''}, not how alike two texts are: make "
            f"pairs or triplets of the rows (anchor, positive, negative), or a float column 'score'."
        )


def is_number(value: Any) -> bool:
    """Whether a cell is a number that a float can hold."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 1023)


def _texts(row: Row, name: str, number: int) -> list[str]:
    value = row.get(name)
    if not isinstance(value, list):
        return [text_field(row, name, number)]
    if not all(isinstance(text, str) and text.strip() for text in value):
        raise _bad(number, name, value, "a list of non-empty texts")
    return value


def _bad(number: int, name: str, value: Any, rule: str) -> RowError:
    return RowError(number, f"field {name!r} is {value!r}; it must be {rule}.")
