"""Rows of one source as they stand there, and what is made of them: a data set of `datasets`, map-style or streamed.

Rows of files are read by `readers`, one by one, and written to the cache of `datasets` once they are made, once for
all processes; a file that changed is read anew, and by code that changed rows are made anew. Rows of a `datasets`
object, of parquet and of the Hub have types.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from .features import TEXT, feature_of, fit_row, join_features, kind_of, kind_of_feature
from .plain_text import read_lines
from .readers import Row, file_stamp, read_rows, without_surrogates
from .written import code_digest, generated

Rows: TypeAlias = datasets.Dataset | datasets.IterableDataset
# (row, its number) -> what becomes of it; with a batch size, ({column: values}, numbers) -> {column: values}.
Make = Callable[[Any, Any], Row]
_HEAD = 1000  # rows of a stream that say what columns there are


class RowError(ValueError):
    """What is wrong with a row, known by its number (the first is 0); a table says where it stands."""

    def __init__(self, number: int, problem: str):
        super().__init__(f"Row {number} (the first is 0): {problem}")
        self.number, self.problem = number, problem


@dataclass(frozen=True)
class ReadTable:
    """Rows of a file, or a list of them.

    Attributes:
        read: gives (where it stands, row) for each.
        stamp: what changes when the rows do; None for rows in memory.
        streaming: make rows while they are read, not before.
        limit: the first so many rows alone.
    """

    read: Callable[[], Iterator[tuple[str, Row]]]
    stamp: tuple[Any, ...] | None = None
    streaming: bool = False
    limit: int | None = None

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        """(where it stands, row) for each row."""
        return itertools.islice(self.read(), self.limit)

    def first(self, limit: int | None) -> "ReadTable":
        """The table's first rows alone."""
        return replace(self, limit=limit)

    def kinds(self) -> dict[str, str]:
        """{column: what its first cell that is not empty holds}, see `kind_of`; of a stream's first 1,000 rows."""
        kinds: dict[str, str] = {}
        for _, row in itertools.islice(self, _HEAD if self.streaming else None):
            for name, value in row.items():
                if kinds.get(name, "none") == "none":
                    kinds[name] = kind_of(value)
        return kinds

    def classes(self, column: str) -> list[str]:
        """The names of a column's classes; files have none."""
        return []

    def values(self, column: str) -> set[Any]:
        """The distinct texts of a column; of a stream's first row."""
        rows = itertools.islice(self, 1 if self.streaming else None)
        return {row.get(column) for _, row in rows if isinstance(row.get(column), str)}

    def dataset(self) -> Rows:
        """The rows as they are; cells of a column that holds several kinds of values as their JSON."""
        features: dict[str, Any] = {}
        for _, row in itertools.islice(self, _HEAD if self.streaming else None):
            for name, value in row.items():
                features[name] = join_features(features.get(name), feature_of(value))
        filled = datasets.Features({name: found or TEXT for name, found in features.items()})
        return self.map(partial(fit_row, features=filled), filled)

    def map(self, make: Make, features: datasets.Features, batch_size: int | None = None) -> Rows:
        """`make` of each row, or batch of rows, as a data set of `features`.

        Raises ValueError naming file and row, where `make` raises RowError or a row cannot be read.
        """
        keywords: dict[str, Any] = {"rows": self, "make": make, "batch_size": batch_size}
        if self.stamp is None and not self.streaming:
            made = list(_made(**keywords))
            return datasets.Dataset.from_dict({name: [row[name] for row in made] for name in features}, features)
        return generated(_made, features, keywords, self.streaming)


@dataclass(frozen=True)
class TypedTable:
    """Rows of a `datasets` object; `name`: of the file that they are from; `parts`: of several files, their sizes."""

    rows: Rows
    name: str | None = None
    parts: tuple[tuple[str | None, int], ...] = ()

    @property
    def streaming(self) -> bool:
        """Whether rows are made while they are read."""
        return isinstance(self.rows, datasets.IterableDataset)

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        """(where it stands, row) for each row."""
        return ((self.where(number), row) for number, row in enumerate(self.rows))

    def where(self, number: int) -> str:
        """The file and the row, for people."""
        for name, size in self.parts:
            if number < size:
                return TypedTable(self.rows, name).where(number)
            number -= size
        return f"{self.name}, row {number + 1}" if self.name else f"Row {number} (the first is 0)"

    def dataset(self) -> Rows:
        """The rows as they are."""
        return self.rows

    def first(self, limit: int | None) -> "TypedTable":
        """The table's first rows alone."""
        if limit is None:
            return self
        rows = self.rows
        mapped = isinstance(rows, datasets.Dataset)
        return replace(self, rows=rows.select(range(min(limit, len(rows)))) if mapped else rows.take(limit))

    def kinds(self) -> dict[str, str]:
        """{column: what it holds} by its type, else by the first row; see `kind_of`."""
        if self.rows.features is not None:
            return {name: kind_of_feature(feature) for name, feature in self.rows.features.items()}
        return {name: kind_of(value) for name, value in next(iter(self.rows), {}).items()}

    def classes(self, column: str) -> list[str]:
        """The names of a column's classes, where it has any."""
        feature: Any = (self.rows.features or {}).get(column)
        return feature.names if isinstance(feature, datasets.ClassLabel) else []

    def values(self, column: str) -> set[Any]:
        """The distinct texts of a column; of a stream's first row."""
        if isinstance(self.rows, datasets.Dataset):
            found = self.rows.unique(column) if column in self.rows.column_names else []
        else:
            first: Row = next(iter(self.rows), {})
            found = [first.get(column)]
        return {value for value in found if isinstance(value, str)}

    def streamed(self) -> "TypedTable":
        """The same rows, made while they are read."""
        rows = self.rows
        return replace(self, rows=rows.to_iterable_dataset()) if isinstance(rows, datasets.Dataset) else self

    def map(self, make: Make, features: datasets.Features, batch_size: int | None = None) -> Rows:
        """`make` of each row, or batch of rows, as a data set of `features`; ValueError where it raises RowError."""
        batched = {} if batch_size is None else {"batched": True, "batch_size": batch_size}
        columns = self.rows.column_names or list(next(iter(self.rows), {}))
        made = partial(_placed, make=make, where=self.where)
        known_by = {"code": code_digest()}  # beside the rows and the arguments, in the cache
        return self.rows.map(
            made, with_indices=True, remove_columns=columns, features=features, fn_kwargs=known_by, **batched
        )


Table: TypeAlias = ReadTable | TypedTable


def file_table(path: Path, streaming: bool = False, numbers: tuple[str, ...] = ()) -> ReadTable:
    """The rows of a .jsonl, .json, .csv or .tsv file, see `read_rows`."""
    return ReadTable(partial(read_rows, path, numbers), file_stamp(path), streaming)


def lines_table(path: Path) -> ReadTable:
    """The lines of a text file that are not blank, see `read_lines`; ValueError where there is none."""
    table = ReadTable(partial(read_lines, path), file_stamp(path))
    if next(iter(table), None) is None:
        raise ValueError(f"{str(path)!r} holds no line that is not blank and needs one or more: give another.")
    return table


def list_table(rows: list[Row], streaming: bool = False) -> ReadTable:
    """Rows in memory."""
    return ReadTable(partial(_listed, rows), streaming=streaming)


def _listed(rows: list[Row]) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"Row {number} (the first is 0) is a {type(row).__name__} and must be a dict of fields.")
        yield f"Row {number} (the first is 0)", without_surrogates(row)


def _made(rows: ReadTable, make: Make, batch_size: int | None) -> Iterator[Row]:
    numbered = enumerate(rows)
    if batch_size is None:
        for number, (where, row) in numbered:
            yield _placed(row, number, make, {number: where}.__getitem__)
        return
    while batch := list(itertools.islice(numbered, batch_size)):
        places = {number: where for number, (where, _) in batch}
        names = dict.fromkeys(name for _, (_, row) in batch for name in row)
        columns = {name: [row.get(name) for _, (_, row) in batch] for name in names}
        made = _placed(columns, list(places), make, places.__getitem__)
        yield from (dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True))


def _placed(row: Any, number: Any, make: Make, where: Callable[[int], str], code: str = "") -> Row:
    try:
        return make(row, number)
    except RowError as error:
        raise ValueError(f"{where(error.number)}: {error.problem}") from None
