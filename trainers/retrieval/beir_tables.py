"""The three tables of a folder in BEIR's form, each a file or a folder of files."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.sources import Row, load_rows

SUFFIXES = (".jsonl", ".parquet", ".csv", ".tsv")


@dataclass
class Table:
    """Rows, to be read once, and the file or folder that an error about them names."""

    where: str
    rows: Iterable[Row]


def has_table(folder: Path, name: str) -> bool:
    """Whether `folder` holds `name` as a file or a folder of files."""
    return bool(_files(folder, name))


def read_table(folder: Path, name: str, split: str | None) -> Table:
    """The table `name`; of judgements (`qrels`) those of a split, of other tables all files.

    Raises ValueError for a table that is not there, and for a split that is not.
    """
    files = _files(folder, name)
    if not files:
        raise ValueError(f"{str(folder)!r} lacks {name}: put {name}.jsonl there, or a folder {name} of data files.")
    if name == "qrels" and (len(files) > 1 or split is not None):
        files = _of_split(files, split, folder)
    where = str(files[0]) if len(files) == 1 else str(folder / name)
    return Table(where, (row for file in files for row in _read(file)))


def choose_split(splits: Iterable[str], wanted: str | None, where: str) -> list[str]:
    """The split of the judgements: the one that is wanted, "test", or the only one; ValueError where none is that."""
    splits = list(splits)
    name = "test" if wanted is None and "test" in splits else wanted
    if name is None and len(splits) == 1:
        return splits
    if name not in splits:
        asked = "several splits" if name is None else f"no split {name!r}"
        raise ValueError(f"{where} has {asked}: name one of {', '.join(sorted(splits))}.")
    return [name]


def _files(folder: Path, name: str) -> list[Path]:
    single = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
    if single or not (folder / name).is_dir():
        return single[:1]
    return sorted(path for path in (folder / name).iterdir() if path.suffix in SUFFIXES)


def _of_split(files: list[Path], wanted: str | None, folder: Path) -> list[Path]:
    # test.tsv, or test-00000-of-00002.parquet
    splits = {file: file.stem.split("-")[0] for file in files}
    (chosen,) = choose_split(dict.fromkeys(splits.values()), wanted, str(folder / "qrels"))
    return [file for file, split in splits.items() if split == chosen]


def _read(file: Path) -> Iterator[Row]:
    if file.suffix == ".jsonl":
        return _read_lines(file)
    if file.suffix == ".tsv":
        return _read_tabs(file)
    return (row for rows in load_rows(file) for row in rows)


def _read_lines(file: Path) -> Iterator[Row]:
    # Not through a table: the `metadata` of BEIR's rows have all kinds of fields.
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number} is no JSON: {error}.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number} is a {type(row).__name__}; it must be an object with fields.")
            yield row


def _read_tabs(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
