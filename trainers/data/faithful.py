"""Rows that are written out again as they came in.

A table makes dates of texts that look like them and gives every row every column; JSON Lines are therefore read as
lines (memory-mapped) and parsed one by one.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets

from .sources import Row, RowSource, load_rows


class ParsedRows(Sequence[Row]):
    """Row i is `parse(rows[i], i)`, made anew each time."""

    def __init__(self, rows: datasets.Dataset, parse: Callable[[Row, int], Row]):
        self.rows, self.parse = rows, parse

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        return self.parse(self.rows[number], number)


def faithful_rows(source: RowSource) -> Sequence[Row]:
    """Rows that can be read by number, as they are: see `load_faithful_rows`; a list is taken as it is.

    Raises TypeError for a stream, whose rows have no number before they were all read.
    """
    if isinstance(source, str | Path):
        return load_faithful_rows(str(source))
    if isinstance(source, datasets.IterableDataset):
        raise TypeError("An IterableDataset cannot be read by row number: give its file, folder or Hub id.")
    if isinstance(source, list) and source:
        return source
    (rows,) = load_rows(source)  # which names what is wrong with any other source
    return ParsedRows(rows, _leave_out_none)


def load_faithful_rows(source: str) -> ParsedRows:
    """The rows of a .jsonl file or a folder of them as they are; of other sources (see `load_rows`) without None."""
    path = Path(source)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if path.exists() and files and all(file.suffix == ".jsonl" for file in files):
        names = [str(file) for file in files]
        lines = datasets.load_dataset("text", data_files=names, split="train")
        kept = [number for number, line in enumerate(lines["text"]) if line.strip()]
        if not kept:
            raise ValueError(f"{source!r} is empty, and needs one row or more: give another.")
        return ParsedRows(lines if len(kept) == len(lines) else lines.select(kept), _parse_line)
    return ParsedRows(datasets.concatenate_datasets(load_rows(source)), _leave_out_none)


def _parse_line(line: Row, number: int) -> Row:
    try:
        row = json.loads(line["text"])
    except ValueError as error:
        raise ValueError(f"Row {number} (the first is 0) is no JSON: {error}.") from error
    if not isinstance(row, dict):
        raise ValueError(f"Row {number} (the first is 0) is a {type(row).__name__}; it must be an object with fields.")
    return row


def _leave_out_none(row: Row, number: int) -> Row:
    return {name: value for name, value in row.items() if value is not None}
