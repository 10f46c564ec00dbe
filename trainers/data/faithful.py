"""Rows that are read by number and written out again as they came in."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from .joining import joined
from .readers import without_surrogates
from .sources import Row, RowError, RowSource, load_tables
from .tables import ReadTable, Table, TypedTable

_STORED = datasets.Features({"row": datasets.Value("large_string"), "where": datasets.Value("string")})


class ParsedRows(Sequence[Row]):
    """Row i of a table, made anew each time; `where(i)` says where it stands."""

    def __init__(self, table: Table):
        self.table = table
        # A row goes into the cache of `datasets` as its JSON, which keeps each field and its type.
        self.rows: Any = table.rows if isinstance(table, TypedTable) else _stored(table)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return self._several(self.rows[number])
        row = self.rows[number]
        if isinstance(self.table, ReadTable):
            return json.loads(row["row"])
        return {name: value for name, value in row.items() if value is not None}

    def _several(self, columns: dict[str, list[Any]]) -> list[Row]:
        if isinstance(self.table, ReadTable):
            return [json.loads(row) for row in columns["row"]]
        rows = (zip(columns, values, strict=True) for values in zip(*columns.values(), strict=True))
        return [{name: value for name, value in row if value is not None} for row in rows]

    def where(self, number: int) -> str:
        """The file and the line, or the number, of a row."""
        return self.rows[number]["where"] if isinstance(self.table, ReadTable) else self.table.where(number)


@contextmanager
def placed(rows: Any) -> Iterator[None]:
    """A RowError of `rows` becomes a ValueError that says where the row stands."""
    try:
        yield
    except RowError as error:
        if isinstance(rows, ParsedRows):
            raise ValueError(f"{rows.where(error.number)}: {error.problem}") from None
        raise


def faithful_rows(source: RowSource) -> Sequence[Row]:
    """Rows that can be read by number, as they are: see `load_faithful_rows`; a list is taken as it is.

    Raises TypeError for a stream, whose rows have no number before they were all read.
    """
    if isinstance(source, datasets.IterableDataset):
        raise TypeError("An IterableDataset cannot be read by row number; give its file, folder or Hub id.")
    if isinstance(source, list) and source:
        for number, row in enumerate(source):
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise ValueError(f"Row {number} (the first is 0) is a {kind} and must be a dict of fields: mend it.")
        return [without_surrogates(row) for row in source]
    return load_faithful_rows(str(source) if isinstance(source, Path) else source)


def load_faithful_rows(source: RowSource) -> ParsedRows:
    """The rows of a file or folder as they are; of a Hub repo, parquet or a `datasets` object without None."""
    return ParsedRows(joined(load_tables(source)))


def _stored(table: ReadTable) -> Any:
    return ReadTable(partial(_with_places, table), table.stamp).map(_unchanged, _STORED)


def _with_places(table: ReadTable) -> Iterator[tuple[str, Row]]:
    for where, row in table:
        yield where, {"row": json.dumps(row, default=str), "where": where}


def _unchanged(row: Row, number: int) -> Row:
    return row
