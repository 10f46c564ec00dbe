"""Texts with ids, read by number from a file that may be larger than the memory."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .faithful import ParsedRows, load_faithful_rows
from .sources import Row, is_data_file
from .tables import lines_table

_BLOCK = 1024  # rows that are read at once


class IdentifiedTexts(Sequence[str]):
    """The texts of `source`: a data file, a folder or Hub id of rows, or any other file, whose lines are the texts.

    A row has its text under `field`, with a `title` put before it, and its id under `_id` or `id`. A row without an id
    has its number, a line too (the first is 0, lines that are blank count but are no text). Beside a title the
    text may be null.

    Args:
        first: the number of the first row, as an id.
        unique: whether no id may stand twice.

    `digest` is a hash of texts and ids. Raises ValueError for a row without text, naming its number, for a source
    without texts, and for an id that stands twice.
    """

    def __init__(
        self, source: str, field: str = "text", show_progress: bool = False, first: int = 0, unique: bool = False
    ):
        path, self.first = Path(source), first
        self.source, self.field = source, field
        self.is_text = is_text_file(path)
        self.rows = ParsedRows(lines_table(path)) if self.is_text else load_faithful_rows(source)
        digest, keys = hashlib.sha256(), array("q")
        everything = self.pairs(range(len(self)))
        for pair in tqdm(everything, "Reading texts", len(self), unit="text", disable=not show_progress):
            if unique:
                keys.append(hash(pair[0]))
            for part in pair:
                digest.update(part.encode(errors="surrogatepass") + b"\0")
        self.digest = digest.hexdigest()
        self._refuse_twice(np.frombuffer(keys, dtype=np.int64))

    def _refuse_twice(self, keys: np.ndarray) -> None:
        """ValueError for an id that stands twice; `keys` are hashes, as all ids might be too many."""
        ordered, first = np.sort(keys), dict[str, int]()
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        for number in np.flatnonzero(np.isin(keys, twice)).tolist() if len(twice) else ():
            one = self._id(self.rows[number], number)
            if (other := first.setdefault(one, number)) != number:
                raise ValueError(
                    f"{self.rows.where(number)}: the id {one!r} is that of {self.rows.where(other)}, too, where a row "
                    "without one has its number: give each text an id of its own."
                )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [text for _, text in self.pairs(range(len(self))[number])]
        return self._text(self.rows[number], number)

    def __iter__(self) -> Iterator[str]:
        return (text for _, text in self.pairs(range(len(self))))

    def ids(self) -> Iterator[str]:
        """The ids, in order."""
        return (one for one, _ in self.pairs(range(len(self))))

    def pairs(self, numbers: range) -> Iterator[tuple[str, str]]:
        """(id, text) of some texts; of them no more than a block is in memory."""
        for start in range(0, len(numbers), _BLOCK):
            block = numbers[start : start + _BLOCK]
            for number, row in zip(block, self.rows[_slice(block)], strict=True):
                yield self._id(row, number), self._text(row, number)

    def _text(self, row: Row, number: int) -> str:
        if isinstance(text := row.get(self.field), str) and not row.get("title"):
            return text  # as `row_text` has it: to say where a row stands takes longer than to read it
        return row_text(row, self.field, self.rows.where(number))

    def _id(self, row: Row, number: int) -> str:
        found = row_id(row, partial(self.rows.where, number))
        return str(self.first + number) if found is None else found


def _slice(numbers: range) -> slice:
    return slice(numbers.start, numbers.stop, numbers.step)


def is_text_file(path: str | Path) -> bool:
    """Whether a file's lines are texts, and not rows."""
    return Path(path).is_file() and not is_data_file(Path(path))


def row_id(row: Mapping[str, Any], where: Callable[[], str]) -> str | None:
    """`_id` or `id` of a row as text, None where it has neither; ValueError, naming `where()`, for another value."""
    value = row.get("_id") if row.get("_id") is not None else row.get("id")
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise ValueError(f"{where()}: the id is {value!r}; it must be a text or a whole number.")
    return None if value is None else str(value)


def row_text(row: Mapping[str, Any], field: str, where: str) -> str:
    """The text of a row under `field`, with its `title` before it; ValueError, naming `where`, for one without.

    Beside a title it may be null, as an empty cell is: of a passage that is its title.
    """
    text, title = row.get(field), row.get("title")
    if text is None and title and field in row:
        text = ""
    if not isinstance(text, str):
        raise ValueError(f"{where}: field {field!r} is {text!r}; it must be a text.")
    return passage_text({"title": title, "text": text}, where)


def passage_text(row: Mapping[str, Any], where: str) -> str:
    """`title` and `text` of a row with a blank between, as BEIR has it; ValueError, naming `where`, without a text."""
    text, title = row.get("text"), row.get("title") or ""
    if not isinstance(text, str) or not isinstance(title, str):
        raise ValueError(f"{where}: field 'text' is {text!r}, 'title' {title!r}; both must be texts.")
    return f"{title} {text}".strip() if title else text
