"""Data sets as tables of rows: from a file, a folder, a Hub id, a list of rows or a `datasets` object."""

import glob
import hashlib
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from huggingface_hub.utils import HFValidationError, validate_repo_id
from pyarrow import parquet

from hub_cards.travelling.saving import is_full_disk

from .folders import DATA_SUFFIXES, SUFFIXES, data_files, found_data_files, is_data_file
from .plain_text import refuse_rows
from .readers import Row, data_suffix, file_stamp, refuse_loose_link, refuse_pointer
from .tables import ReadTable, RowError, Table, TypedTable, file_table, list_table
from .unpacking import packing

RowSource: TypeAlias = str | Path | tuple[Path, ...] | list[Row] | datasets.Dataset | datasets.IterableDataset


def load_tables(
    source: RowSource,
    split: str = "train",
    streaming: bool = False,
    subset: str | None = None,
    revision: str | None = None,
    numbers: tuple[str, ...] = (),
) -> list[Table]:
    """The tables found at `source`: one for an object, a list of rows, a file or a Hub id, one a file for a folder or
    a tuple of files.

    Files end in .jsonl, .json, .csv, .tsv (compressed, too: .jsonl.gz) or .parquet; `split`, `subset` and `revision`
    are a Hub repo's, and the revision may stand behind its name: `user/name@revision`. Cells of .csv and .tsv files
    are texts, but for columns in `numbers`. Raises ValueError for another file, an empty folder or no rows, and
    TypeError for any other kind of `source`.
    """
    if isinstance(source, datasets.Dataset | datasets.IterableDataset):
        return [TypedTable(source)]
    if isinstance(source, tuple):
        return [_load_file(file, streaming, numbers) for file in source]
    if isinstance(source, list):
        if not source:
            raise ValueError("The list of rows is empty; a data set needs one row or more.")
        return [list_table(source, streaming)]
    if not isinstance(source, str | Path):
        raise TypeError(
            f"A data set is a path, a Hub id, a list of rows or a `datasets` Dataset, not {type(source).__name__}"
            + (f"; pick one of its splits: {sorted(source)}." if isinstance(source, dict) else ".")
        )
    path = path_of(source)
    assert path is not None
    if path.is_dir():
        return [_load_file(file, streaming, numbers) for file in data_files(path)]
    if path.is_file():
        return [_load_file(path, streaming, numbers)]
    repo_id, pinned = _hub_name(path)
    if revision is not None and pinned not in (None, revision):
        raise ValueError(f"{str(source)!r} names another revision than revision={revision!r}: leave one of them out.")
    rows = datasets.load_dataset(repo_id, subset, split=split, streaming=streaming, revision=revision or pinned)
    return [TypedTable(rows)]


def path_of(source: Any) -> Path | None:
    """The path that a source may be; None for rows in memory. ValueError for an empty text, which names no place."""
    if isinstance(source, str) and not source:
        raise ValueError("source='' must name data: give a path, a Hub id, a list of rows or a `datasets` Dataset.")
    return Path(source) if isinstance(source, str | Path) else None


def check_source(source: Any) -> None:
    """ValueError for a path that is not there, a name that can be no Hub id, and a file whose first row does not load.

    So, too, for rows under the name of a plain text, and a folder that `save_to_disk` wrote.

    It takes no time: nothing is asked of the Hub, and no more is read.
    """
    path = path_of(source)
    if path is None:
        return
    if path.is_dir():
        files = found_data_files(path)
    elif path.is_file():
        files = [path]
    else:
        _hub_name(path)
        return
    for file in files:
        if is_data_file(file) and (data_suffix(file) != ".parquet" or packing(file)):
            _load_file(file, False, ())
    if path.is_file() and not is_data_file(path):
        refuse_rows(path)


def _hub_name(path: Path) -> tuple[str, str | None]:
    """(Hub id, revision) of what is no path; ValueError where it is none of both."""
    refuse_loose_link(path)
    repo_id, pinned = split_revision(str(path))
    try:
        validate_repo_id(repo_id)
        possible = not Path(repo_id).suffix and not path.is_absolute()
    except HFValidationError:
        possible = False
    if not possible:
        raise ValueError(f"There is no file or folder {str(path)!r}; give a path that exists or a Hub id user/name.")
    return repo_id, pinned


def split_revision(source: str) -> tuple[str, str | None]:
    """(Hub id, revision) of `user/name@revision`; the revision is None where there is no @."""
    repo_id, _, revision = source.partition("@")
    return repo_id, revision or None


def _load_file(path: Path, streaming: bool, numbers: tuple[str, ...]) -> Table:
    if not is_data_file(path):
        raise ValueError(f"{path.name!r} is no data file, as names of these must end in {SUFFIXES}: rename it.")
    if data_suffix(path) == ".parquet" and packing(path):
        raise ValueError(f"Data file {str(path)!r} is a parquet file that is packed once more: unpack it.")
    if data_suffix(path) == ".parquet":
        return TypedTable(_load_parquet(path, streaming), str(path))
    table = file_table(path, streaming, numbers)
    if next(iter(table), None) is None:
        raise ValueError(f"Data file {str(path)!r} holds no row and needs one or more: give another.")
    return table


def _load_parquet(path: Path, streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    refuse_pointer(path)
    if "::" in str(path.absolute()):
        raise ValueError(
            f"Data file {str(path.absolute())!r} has '::' in its path, which `datasets` takes for a chain of places: "
            "rename the folder or the file, or link to it from elsewhere."
        )
    # By itself `datasets` takes a file with the path and the time of a former one for that one.
    stamp = hashlib.sha256(repr(file_stamp(path)).encode()).hexdigest()[:16]
    try:
        if not parquet.read_metadata(path).num_rows:  # `datasets` has no word for it
            raise ValueError("it holds no row and needs one or more")
        name = glob.escape(str(path))  # else [1] and * would find other files
        rows = datasets.load_dataset("parquet", stamp, data_files=name, split="train", streaming=streaming)
        next(iter(rows), None)
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
        problem = error.__cause__ or error
        if is_full_disk(problem):  # of the cache
            raise
        raise ValueError(f"Data file {str(path)!r} does not load ({problem}): write it anew.") from error
    return rows


def text_field(row: Row, field: str, number: int) -> str:
    """`row[field]`, which must be a text that is not blank; else RowError naming the row number and the field."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        found = "is missing" if value is None else f"is {value!r}"
        raise RowError(number, f"field {field!r} {found}; it must be a non-empty text.")
    return value


def text_fields(row: Row, field: str, number: int) -> list[str]:
    """`row[field]`, a list of texts of which none is blank, or nothing; else RowError naming row number and field."""
    value = [] if row.get(field) is None else row[field]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RowError(number, f"field {field!r} is {value!r}; it must be a list of texts.")
    if (blank := next((i for i, text in enumerate(value) if not text.strip()), None)) is not None:
        raise RowError(
            number, f"field {field!r} has a blank text at {blank} (the first is 0); fill it in, or leave it out."
        )
    return value


def optional_text(row: Row, field: str, number: int) -> str | None:
    """`row[field]`, which must be a text or None; else RowError naming the row number and the field."""
    value = row.get(field)
    if value is not None and not isinstance(value, str):
        raise RowError(number, f"field {field!r} is {value!r}; it must be a text or null.")
    return value


__all__ = [
    "DATA_SUFFIXES", "ReadTable", "Row", "RowError", "RowSource", "Table", "TypedTable", "check_source", "data_files",
    "is_data_file", "load_tables", "optional_text", "split_revision", "text_field", "text_fields",
]  # fmt: skip
