"""Rows of one source as they stand there, and what is made of them: a data set of `datasets`, map-style or streamed.

Rows of files are read by `readers`, one by one, and written to the cache of `datasets` once they are made, once for
all processes; a file that changed is read anew. Rows of a `datasets` object, of parquet and of the Hub have types.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from .readers import Row, read_rows

Rows: TypeAlias = datasets.Dataset | datasets.IterableDataset
# (row, its number) -> what becomes of it; with a batch size, ({column: values}, numbers) -> {column: values}.
Make = Callable[[Any, Any], Row]
_HEAD = 1000  # rows of a stream that say what columns there are


class RowError(ValueError):
    """What is wrong with a row, known by its number (the first is 0); a table says where it stands."""

    def __init__(self, number: int, problem: str):
        super().__init__(f"Row {number} (the first is 0): {problem}")
        self.number, self.problem = number, problem


def kind_of(value: Any) -> str:
    """ "text", "texts", "number", "numbers", "other" or "none": what a cell holds."""
    if isinstance(value, list):
        inner = next((kind_of(part) for part in value if part is not None), "none")
        return {"text": "texts", "number": "numbers", "none": "none"}.get(inner, "other")
    if value is None:
        return "none"
    return "text" if isinstance(value, str) else "number" if isinstance(value, int | float) else "other"


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

    def values(self, column: str) -> set[Any]:
        """The distinct texts of a column; of a stream's first row."""
        rows = itertools.islice(self, 1 if self.streaming else None)
        return {row.get(column) for _, row in rows if isinstance(row.get(column), str)}

    def map(self, make: Make, features: datasets.Features, batch_size: int | None = None) -> Rows:
        """`make` of each row, or batch of rows, as a data set of `features`.

        Raises ValueError naming file and row, where `make` raises RowError or a row cannot be read.
        """
        keywords: dict[str, Any] = {"rows": self, "make": make, "batch_size": batch_size}
        if self.streaming:
            return datasets.IterableDataset.from_generator(_made, features=features, gen_kwargs=keywords)
        if self.stamp is None:
            made = list(_made(**keywords))
            return datasets.Dataset.from_dict({name: [row[name] for row in made] for name in features}, features)
        try:
            return datasets.Dataset.from_generator(_made, features=features, gen_kwargs=keywords)
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, ValueError):
                raise error.__cause__ from None
            raise


@dataclass(frozen=True)
class TypedTable:
    """Rows of a `datasets` object; `name`: of the file that they are from."""

    rows: Rows
    name: str | None = None

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        """(where it stands, row) for each row."""
        return ((self._where(number), row) for number, row in enumerate(self.rows))

    def _where(self, number: int) -> str:
        return f"{self.name}, row {number + 1}" if self.name else f"Row {number} (the first is 0)"

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
            return {name: _kind_of_feature(feature) for name, feature in self.rows.features.items()}
        return {name: kind_of(value) for name, value in next(iter(self.rows), {}).items()}

    def values(self, column: str) -> set[Any]:
        """The distinct texts of a column; of a stream's first row."""
        found = (
            self.rows.unique(column) if isinstance(self.rows, datasets.Dataset) else [next(iter(self.rows))[column]]
        )
        return {value for value in found if isinstance(value, str)}

    def map(self, make: Make, features: datasets.Features, batch_size: int | None = None) -> Rows:
        """`make` of each row, or batch of rows, as a data set of `features`; ValueError where it raises RowError."""
        batched = {} if batch_size is None else {"batched": True, "batch_size": batch_size}
        columns = self.rows.column_names or list(next(iter(self.rows), {}))
        made = partial(_placed, make=make, where=self._where)
        return self.rows.map(made, with_indices=True, remove_columns=columns, features=features, **batched)


Table: TypeAlias = ReadTable | TypedTable


def file_table(path: Path, streaming: bool = False, numbers: tuple[str, ...] = ()) -> ReadTable:
    """The rows of a .jsonl, .json, .csv or .tsv file, see `read_rows`."""
    status = path.stat()
    stamp = (str(path.absolute()), status.st_size, status.st_mtime_ns)
    return ReadTable(partial(read_rows, path, numbers), stamp, streaming)


def list_table(rows: list[Row], streaming: bool = False) -> ReadTable:
    """Rows in memory."""
    return ReadTable(partial(_listed, rows), streaming=streaming)


def _listed(rows: list[Row]) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"Row {number} (the first is 0) is a {type(row).__name__} and must be a dict of fields.")
        yield f"Row {number} (the first is 0)", row


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


def _placed(row: Any, number: Any, make: Make, where: Callable[[int], str]) -> Row:
    try:
        return make(row, number)
    except RowError as error:
        raise ValueError(f"{where(error.number)}: {error.problem}") from None


def _kind_of_feature(feature: Any) -> str:
    if isinstance(feature, datasets.List | datasets.LargeList):
        return {"text": "texts", "number": "numbers"}.get(_kind_of_feature(feature.feature), "other")
    if isinstance(feature, datasets.ClassLabel):
        return "number"
    dtype = str(getattr(feature, "dtype", "other"))
    if dtype in ("string", "large_string", "null"):
        return "none" if dtype == "null" else "text"
    return "number" if dtype.startswith(("int", "uint", "float", "bool")) else "other"
