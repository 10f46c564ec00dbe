"""The files of tables in BEIR's form: by name, in a folder of that name, and of judgements those of a split."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from ..data.folders import CARDS, INFOS
from ..data.readers import data_suffix, is_loose_link
from ..data.unpacking import COMPRESSIONS
from .trec import TREC_SUFFIXES

logger = logging.getLogger(__name__)
TABLES = ("corpus", "queries", "qrels")
TABLE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")


def table_files(folder: Path, name: str) -> list[Path]:
    """The files of the table `name`, in order; none where there is no such table."""
    suffixes = (*TABLE_SUFFIXES, *TREC_SUFFIXES) if name == "qrels" else TABLE_SUFFIXES
    endings = [suffix + packed for suffix in dict.fromkeys(suffixes) for packed in ("", *COMPRESSIONS)]
    there = {path.name.removeprefix(name).lower(): path for path in folder.glob(f"{name}.*") if _is_there(path)}
    single = [there[ending] for ending in endings if ending in there]
    if single or not (folder / name).is_dir():
        return single[:1]
    return [path for path in _inside(folder / name) if data_suffix(path) in suffixes]


def refuse_tables(option: str, source: str | None) -> None:
    """ValueError for a folder in which several tables lie as files, where texts of one kind are read."""
    if source is None or not Path(source).is_dir():
        return
    found = [
        files[0] for name in TABLES if (files := table_files(Path(source), name)) and files[0].parent == Path(source)
    ]
    if len(found) > 1:
        raise ValueError(
            f"{option}={source!r} holds {' and '.join(file.name for file in found)}, which are not texts of one kind: "
            f"give one of them, such as {str(found[0])!r}."
        )


def warn_of_others(folder: Path, files: list[Path]) -> None:
    """Says what a table's folder holds besides `files`, those of the table."""
    if folder.is_dir() and (others := [file for file in _inside(folder) if file not in files]):
        logger.warning("%s: %d files are no tables and left out, such as %s.", folder, len(others), others[0].name)


def _inside(folder: Path) -> list[Path]:
    """The files of a table's folder, without a card and what `datasets` writes of the rows."""
    files = (path for path in folder.iterdir() if _is_there(path))
    return sorted(path for path in files if path.name not in INFOS and path.stem.upper() not in CARDS)


def _is_there(path: Path) -> bool:
    """Whether a file is one of a table, not a hidden one; a loose link is, too, and refused when it is read."""
    return not path.name.startswith(".") and (path.is_file() or is_loose_link(path))


def of_split(files: list[Path], wanted: str | None, folder: Path) -> list[Path]:
    """The judgements of a split, see `choose_split`."""
    splits = {file: _split_name(file) for file in files}
    (chosen,) = choose_split(dict.fromkeys(splits.values()), wanted, str(folder / "qrels"))
    return [file for file, split in splits.items() if split == chosen]


def _split_name(file: Path) -> str:
    """`test` of test.tsv, test.qrels.gz and test-00000-of-00002.parquet; `test.2019` of test.2019.tsv."""
    while file.suffix.lower() in (*TABLE_SUFFIXES, *TREC_SUFFIXES, *COMPRESSIONS):
        file = file.with_suffix("")
    return re.sub(r"-\d{5}-of-\d{5}$", "", file.name)


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
