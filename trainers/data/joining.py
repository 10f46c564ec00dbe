"""The rows of several files as one table, which knows the file of each."""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import datasets

from .readers import Row
from .tables import ReadTable, Table, TypedTable


def joined(tables: Sequence[Table]) -> Table:
    """The rows of tables of one form, one behind the other. Raises ValueError for tables of other columns."""
    if len(tables) == 1:
        return tables[0]
    typed = [table for table in tables if isinstance(table, TypedTable) and not table.streaming]
    if len(typed) == len(tables):
        return _concatenated(typed)
    stamps = tuple(table.stamp if isinstance(table, ReadTable) else _fingerprint(table) for table in tables)
    return ReadTable(partial(_chained, tables), stamps, any(table.streaming for table in tables))


def _chained(tables: Sequence[Table]) -> Iterator[tuple[str, Row]]:
    return itertools.chain.from_iterable(tables)


def _fingerprint(table: TypedTable) -> Any:
    return getattr(table.rows, "_fingerprint", None)


def _concatenated(tables: Sequence[TypedTable]) -> TypedTable:
    rows: list[Any] = [table.rows for table in tables]
    for table in tables[1:]:
        try:
            datasets.concatenate_datasets([rows[0], table.rows])
        except ValueError as error:
            raise ValueError(
                f"{table.name} and {tables[0].name} do not make one data set ({error}): give both the same columns."
            ) from error
    parts = tuple((table.name, len(one)) for table, one in zip(tables, rows, strict=True))
    return TypedTable(datasets.concatenate_datasets(rows), parts=parts)
