"""What a needle test found: answers, their share that is right by place, the table, and the file that keeps them."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from hub_cards.whole_files import written_whole

from ..data.sources import Row
from .settings import Cell, shown_length

NOT_POSSIBLE = "-"
# The fields of an answer, and what they may be; bool is no int here.
_FIELDS: dict[str, tuple[type, ...]] = {
    "method": (str,), "length": (int,), "depth": (int,), "keys": (int,), "sample": (int,), "key": (str,),
    "value": (str,), "answer": (str,), "correct": (bool,), "seen": (bool, type(None)), "prompt": (str,),
}  # fmt: skip
_TEXTS: dict[str, type] = {"length": int, "sha256": str}


class Score(NamedTuple):
    """Answers of one cell: how many, how many are right, and before how many the needle stood (None: not known)."""

    samples: int
    correct: int
    seen: int | None

    @property
    def accuracy(self) -> float:
        """The share of right answers, from 0 to 1."""
        return self.correct / self.samples


@dataclass
class NeedleResults:
    """Answers of a test, and of earlier ones with the same settings.

    Attributes:
        settings: what an answer depends on, beside its cell and number.
        answers: rows as `NeedleTest.answer` gives them.
        impossible: {cell: why it could not be done}.
        about: names of model and data.
        texts: what the answers are about: the longest `length` of a test, and a digest of all the tokens that texts of
            so many are cut from. Files of former versions have none.
    """

    settings: dict[str, Any]
    answers: list[Row] = field(default_factory=list)
    impossible: dict[Cell, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)

    def scores(self) -> dict[Cell, Score]:
        """The score of each cell that was done."""
        rows: dict[Cell, list[Row]] = {}
        for row in self.answers:
            rows.setdefault(cell_of(row), []).append(row)
        return {cell: _score(found) for cell, found in rows.items()}

    def values(self, name: str) -> list[Any]:
        """The values of a field of the cells, in the order of the picture: numbers ascending, methods as they came."""
        cells = [*map(cell_of, self.answers), *self.impossible]
        found = list(dict.fromkeys(getattr(cell, name) for cell in cells))
        return found if name == "method" else sorted(found)

    def mean(self, method: str, length: int, keys: int) -> float | None:
        """The mean accuracy over depths; None where nothing was done."""
        found = [
            score.accuracy
            for cell, score in self.scores().items()
            if (cell.method, cell.length, cell.keys) == (method, length, keys)
        ]
        return fmean(found) if found else None

    def table(self) -> list[list[str]]:
        """Rows of the table, the first one its header: mean accuracy over depths in percent, a column a length."""
        lengths = self.values("length")
        head = ["needles", "read by", *map(shown_length, lengths)]
        rows = [
            [str(keys), method, *(percent(self.mean(method, length, keys)) for length in lengths)]
            for keys in self.values("keys")
            for method in self.values("method")
        ]
        return [head, *rows]

    def as_text(self) -> str:
        """The table for a terminal."""
        rows = self.table()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        columns: list[Callable[[str, int], str]] = [str.rjust, str.ljust, *[str.rjust] * (len(widths) - 2)]
        return "\n".join(
            "  ".join(put(text, width) for put, text, width in zip(columns, row, widths, strict=True)) for row in rows
        )

    def write(self, file: str | Path) -> None:
        """Writes all of it as JSON; the file is there as a whole or as it was before."""
        cells = [
            {**cell._asdict(), **score._asdict(), "accuracy": score.accuracy} for cell, score in self.scores().items()
        ]
        impossible = [{**cell._asdict(), "reason": reason} for cell, reason in self.impossible.items()]
        texts = {"texts": self.texts} if self.texts else {}
        held = {
            **self.about, "settings": self.settings, **texts, "cells": cells, "impossible": impossible,
            "answers": self.answers,
        }  # fmt: skip
        with written_whole(file) as new:
            new.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_results(file: str | Path) -> NeedleResults:
    """What `write` wrote. Raises ValueError for another file."""
    try:
        held = json.loads(Path(file).read_text(encoding="utf-8"))
        settings: dict[str, Any] = {**held["settings"]}
        answers = [_checked(row, *_FIELDS) for row in held["answers"]]
        rows = [_checked(row, *Cell._fields) for row in held["impossible"]]
        about = {name: held[name] for name in ("model", "data") if name in held}
        texts = {name: kind(held["texts"][name]) for name, kind in _TEXTS.items()} if held.get("texts") else {}
        return NeedleResults(settings, answers, {cell_of(row): str(row["reason"]) for row in rows}, about, texts)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is there and holds no needle test: name another output, or give --overwrite."
        ) from error


def _checked(row: Row, *names: str) -> Row:
    """The row; TypeError or KeyError unless it has these fields, each of its kind."""
    for name in names:
        if type(row[name]) not in _FIELDS[name]:
            raise TypeError(f"{name} is {row[name]!r}")
    return row


def cell_of(row: Row) -> Cell:
    """The cell that a row is of."""
    return Cell(*(row[name] for name in Cell._fields))


def _score(rows: Iterable[Row]) -> Score:
    rows = list(rows)
    seen = [row["seen"] for row in rows]
    return Score(len(rows), sum(row["correct"] for row in rows), None if None in seen else sum(seen))


def percent(share: float | None) -> str:
    """A share in whole percent, of which neither 0 % nor 100 % stands for nearly so.

    >>> percent(1.0), percent(0.996), percent(0.25), percent(0.004), percent(0.0)
    ('100%', '>99%', '25%', '<1%', '0%')
    """
    if share is None:
        return NOT_POSSIBLE
    shown = f"{share:.0%}"
    return {"0%": "<1%", "100%": ">99%"}.get(shown, shown) if 0 < share < 1 else shown
