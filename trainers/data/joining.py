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
    if len(typed) == len(tables) and (together := _concatenated(typed)) is not None:
        return together
    stamps = tuple(table.stamp if isinstance(table, ReadTable) else _fingerprint(table) for table in tables)
    return ReadTable(partial(_chained, tables), stamps, any(table.streaming for table in tables))


def _chained(tables: Sequence[Table]) -> Iterator[tuple[str, Row]]:
    return itertools.chain.from_iterable(tables)


def _fingerprint(table: TypedTable) -> Any:
    return getattr(table.rows, "_fingerprint", None)


def _concatenated(tables: Sequence[TypedTable]) -> TypedTable | None:
    """The tables as one; None where they hold the same in other types, such as string and large_string."""
    rows: list[Any] = [table.rows for table in tables]
    alike = True
    for table in tables[1:]:
        try:
            datasets.concatenate_datasets([rows[0], table.rows])
        except ValueError as error:
            alike = False
            if not _hold_the_same(tables[0], table):
                raise ValueError(
                    f"{table.name} and {tables[0].name} do not make one data set ({error}): give both the "
                    "same columns."
                ) from error
    if not alike:
        return None
    parts = tuple((table.name, len(one)) for table, one in zip(tables, rows, strict=True))
    return TypedTable(datasets.concatenate_datasets(rows), parts=parts)


def _hold_the_same(one: TypedTable, other: TypedTable) -> bool:
    ours, theirs = one.kinds(), other.kinds()
    shared = [{ours[name], theirs[name]} - {"none"} for name in ours.keys() & theirs.keys()]
    return all(len(kinds) < 2 and kinds != {"other"} for kinds in shared)
