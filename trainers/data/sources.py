"""Data sets as rows: from a file, a folder, a Hub id or a `datasets` object."""

from pathlib import Path
from typing import Any, TypeAlias

import datasets

Row = dict[str, Any]
RowSource: TypeAlias = str | Path | tuple[Path, ...] | list[Row] | datasets.Dataset | datasets.IterableDataset

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
DATA_SUFFIXES = tuple(_BUILDERS)  # files that end otherwise are plain text, where that is taken


def load_rows(
    source: RowSource,
    split: str = "train",
    streaming: bool = False,
    subset: str | None = None,
    revision: str | None = None,
) -> list[datasets.Dataset | datasets.IterableDataset]:
    """The data sets found at `source`: one for an object, a list of rows, a file or a Hub id, one a file for a folder
    or a tuple of files.

    Files end in .jsonl, .json, .parquet or .csv; `split`, `subset` and `revision` are a Hub repo's, and the revision
    may stand behind its name: `user/name@revision`. Raises ValueError for another file, an empty folder or no rows,
    and TypeError for any other kind of `source`.
    """
    if isinstance(source, datasets.Dataset | datasets.IterableDataset):
        return [source]
    if isinstance(source, tuple):
        return [_load_file(file, streaming) for file in source]
    if isinstance(source, list):
        if not source:
            raise ValueError("The list of rows is empty, and a data set needs one row or more: give some.")
        # Dataset.from_list would take the columns from the first row alone.
        names = dict.fromkeys(name for row in source for name in row)
        rows = datasets.Dataset.from_dict({name: [row.get(name) for row in source] for name in names})
        return [rows.to_iterable_dataset() if streaming else rows]
    if not isinstance(source, str | Path):
        raise TypeError(
            f"A data set is a path, a Hub id, a list of rows or a `datasets` Dataset, not {type(source).__name__}"
            + (f"; pick one of its splits: {sorted(source)}." if isinstance(source, dict) else ".")
        )
    path = Path(source)
    if path.is_dir():
        return [_load_file(file, streaming) for file in data_files(path)]
    if path.is_file():
        return [_load_file(path, streaming)]
    repo_id, pinned = split_revision(str(source))
    if Path(repo_id).suffix or path.is_absolute():
        raise ValueError(f"There is no file or folder {str(source)!r}: give a path that exists or a Hub id user/name.")
    if revision is not None and pinned not in (None, revision):
        raise ValueError(f"{str(source)!r} names another revision than revision={revision!r}: leave one of them out.")
    return [datasets.load_dataset(repo_id, subset, split=split, streaming=streaming, revision=revision or pinned)]


def split_revision(source: str) -> tuple[str, str | None]:
    """(Hub id, revision) of `user/name@revision`; the revision is None where there is no @."""
    repo_id, _, revision = source.partition("@")
    return repo_id, revision or None


def data_files(folder: Path) -> list[Path]:
    """The data files of a folder, by name; ValueError where it has none."""
    files = sorted(file for file in folder.iterdir() if file.suffix in _BUILDERS)
    if not files:
        raise ValueError(
            f"Folder {str(folder)!r} holds no data files: give some whose names end in {', '.join(DATA_SUFFIXES)}."
        )
    return files


def _load_file(path: Path, streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    if path.suffix not in _BUILDERS:
        raise ValueError(
            f"{path.name!r} is no data file, as names of these must end in {', '.join(DATA_SUFFIXES)}: rename it."
        )
    if path.stat().st_size == 0:
        raise ValueError(f"Data file {str(path)!r} is empty, and needs one row or more: give another.")
    try:
        return datasets.load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train", streaming=streaming)
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"Data file {str(path)!r} does not load: {error.__cause__}") from error


def column_names(rows: datasets.Dataset | datasets.IterableDataset) -> list[str]:
    """The columns, read off the first row where a stream does not know them."""
    return rows.column_names or list(next(iter(rows)))


def text_field(row: Row, field: str, number: int) -> str:
    """`row[field]`, which must be a text that is not blank; else ValueError naming the row number and the field."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        found = "is missing" if value is None else f"is {value!r}"
        raise ValueError(f"Row {number} (the first is 0): field {field!r} {found}; it must be a non-empty text.")
    return value
