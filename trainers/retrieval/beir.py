"""Queries, passages and relevance judgements in BEIR's form: a folder, a folder of such folders, or a Hub id.

A folder holds

    corpus.jsonl       {"_id": ..., "title": ..., "text": ...} a line; `title` may be missing
    queries.jsonl      {"_id": ..., "text": ...}
    qrels/test.tsv     query-id, corpus-id, score, tab-separated under a header; no score: 1

each of them also as .jsonl, .json, .parquet, .csv or .tsv, compressed or not, or as a folder of such files, which is
what a clone of a NanoBEIR repo has. Judgements may be TREC's as well (.qrels, .trec, .txt, .tsv): see `trec`. On the
Hub, corpus, queries and qrels are configurations of a data set.
"""

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from hub_cards.travelling.checks import checked

from ..data.readers import data_suffix, refuse_loose_link
from ..data.sources import Row, TypedTable, load_tables
from ..data.texts import passage_text
from .data import RetrievalData, make_retrieval_data
from .tables import TABLE_SUFFIXES, TABLES, choose_split, of_split, table_files, warn_of_others
from .trec import TREC_SUFFIXES, has_head, read_trec

_QUERY_ID, _PASSAGE_ID = ("query-id", "query_id"), ("corpus-id", "corpus_id")


@dataclass
class _Table:
    """Rows, to be read once, and the file or folder that an error about them names."""

    where: str
    rows: Iterable[tuple[str, Row]]  # where each stands


def is_retrieval_source(source: Any) -> bool:
    """Whether `source` is a folder in BEIR's form, or a folder of such folders."""
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return False
    return _is_one(Path(source)) or bool(_parts(Path(source)))


def is_collection(source: str | Path) -> bool:
    """Whether `source` is a folder of folders in BEIR's form."""
    return Path(source).is_dir() and not _is_one(Path(source))


@checked
def load_retrieval_data(
    source: str | Path, split: str | None = None, revision: str | None = None
) -> dict[str, RetrievalData]:
    """The data sets at `source` by name: the folder's own, or those of the folders in it; of a Hub id its last part.

    Args:
        split: which judgements to read where there are several; default "test", or the only one there is.
        revision: branch, tag or commit of a Hub id.

    Raises ValueError, naming the file, for a table or field that is missing, an empty one, an id that stands twice,
    and judgements that name no query or no passage that is there. Queries without a relevant passage or without a
    text are left out, and a relevant passage that is not there counts as not found; warnings say how many.
    """
    check_retrieval_source(source)
    folder = Path(source)
    if not folder.is_dir():
        return {folder.name: _load_hub(str(source), split, revision)}
    if revision is not None:
        raise ValueError(f"revision={revision!r} is for a Hub id, and {str(source)!r} is a folder: leave it out.")
    parts = [folder] if _is_one(folder) else _parts(folder)
    # A part's own name, as links may lead to folders of one name; "." has none before it is resolved.
    names = [folder.resolve().name] if parts == [folder] else [part.name for part in parts]
    return {name: _load_folder(part, split) for name, part in zip(names, parts, strict=True)}


def check_retrieval_source(source: str | Path) -> None:
    """ValueError for what is neither a folder with the three tables, or with such folders, nor a Hub id."""
    folder = Path(source)
    if not folder.is_dir():
        refuse_loose_link(folder)
        if folder.exists() or folder.is_absolute() or str(source).count("/") != 1:
            raise ValueError(f"There is no folder {str(source)!r}: give a path that exists or a Hub id user/name.")
    elif not _is_one(folder) and not _parts(folder):
        raise ValueError(
            f"Folder {str(source)!r} holds no corpus, queries and qrels, and no folder that does: put them there."
        )


def _is_one(folder: Path) -> bool:
    return any(_has_table(folder, name) for name in TABLES)


def _parts(folder: Path) -> list[Path]:
    return [part for part in sorted(folder.iterdir()) if part.is_dir() and _is_one(part)]


def _load_folder(folder: Path, split: str | None) -> RetrievalData:
    return _combine(*(_read_table(folder, name, split if name == "qrels" else None) for name in TABLES))


def _load_hub(repo_id: str, split: str | None, revision: str | None) -> RetrievalData:
    configurations = datasets.get_dataset_config_names(repo_id, revision=revision)
    names = dict(zip(TABLES, TABLES, strict=True))
    if "qrels" not in configurations and "default" in configurations:
        names["qrels"] = "default"  # repos of MTEB
    if missing := sorted(set(names.values()) - set(configurations)):
        raise ValueError(
            f"{repo_id!r} lacks the configuration {missing[0]!r}, it has {', '.join(configurations)}: take another."
        )
    tables = []
    for name, configuration in names.items():
        splits = datasets.load_dataset(repo_id, configuration, revision=revision)
        chosen = choose_split(list(splits), split, f"{repo_id}, {name}") if name == "qrels" else list(splits)
        rows = datasets.concatenate_datasets([splits[part] for part in chosen])
        where = f"{repo_id}, {configuration}"
        tables.append(_Table(where, TypedTable(rows, where)))
    return _combine(*tables)


def _combine(corpus: _Table, queries: _Table, qrels: _Table) -> RetrievalData:
    judged: dict[str, dict[str, float]] = {}
    for place, row in qrels.rows:
        query = _field(row, _QUERY_ID, place)
        passage = _field(row, _PASSAGE_ID, place)
        grade = _grade(row, place)
        if (known := judged.setdefault(query, {}).setdefault(passage, grade)) != grade:
            raise ValueError(
                f"{place}: passage {passage!r} has grade {grade:g} for query {query!r}, and {known:g} before: "
                "leave one of them."
            )
    where = {"queries": queries.where, "corpus": corpus.where, "qrels": qrels.where}
    asked = _texts(queries)
    return make_retrieval_data(asked, _texts(corpus, True, asked), judged, where)


def _texts(table: _Table, may_be_empty: bool = False, apart: Collection[str] = ()) -> dict[str, Any]:
    """{id: text, title first}; of ids in `apart` title and text."""
    texts: dict[str, Any] = {}
    for place, row in table.rows:
        identifier = _field(row, ("_id", "id"), place)
        if identifier in texts:
            raise ValueError(f"{place}: the id {identifier!r} stands twice in {table.where}: remove one.")
        row = {**row, **_empty(row)} if may_be_empty else row
        text = passage_text(row, place)
        texts[identifier] = {"title": row.get("title"), "text": row["text"]} if identifier in apart else text
    return texts


def _empty(row: Row) -> Row:
    # An empty cell of a table is None, and public corpora have passages that are a title alone, or nothing at all.
    return {"text": ""} if "text" in row and row["text"] is None else {}


def _field(row: Row, names: tuple[str, ...], where: str) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if not isinstance(value, str | int) or isinstance(value, bool):
        found = "is missing" if value is None else f"is {value!r}"
        raise ValueError(f"{where}: field {names[0]!r} {found}; it must be an id.")
    return str(value)


def _grade(row: Row, where: str) -> float:
    if "score" not in row:  # two columns alone name what is relevant
        if others := sorted(set(row) - {*_QUERY_ID, *_PASSAGE_ID}):
            raise ValueError(
                f"{where}: a judgement has no field 'score', and {', '.join(map(repr, others))} beside the ids: name "
                "the grade 'score', or leave the two ids alone, which are then relevant."
            )
        return 1.0
    value = row["score"]
    try:
        grade = math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        grade = math.nan
    if not math.isfinite(grade):
        raise ValueError(f"{where}: field 'score' is {value!r}; it must be a number.")
    return grade


def _has_table(folder: Path, name: str) -> bool:
    """Whether `folder` holds `name` as a file or a folder of files."""
    return bool(table_files(folder, name))


def _read_table(folder: Path, name: str, split: str | None) -> _Table:
    """The table `name`; of judgements (`qrels`) those of a split, of other tables all files.

    Raises ValueError for a table that is not there, and for a split that is not.
    """
    files = table_files(folder, name)
    if not files:
        raise ValueError(f"{str(folder)!r} lacks {name}: put {name}.jsonl there, or a folder {name} of data files.")
    if files[0].parent != folder:
        warn_of_others(folder / name, files)
    if name == "qrels" and (len(files) > 1 or split is not None):
        files = of_split(files, split, folder)
    where = str(files[0]) if len(files) == 1 else str(folder / name)
    return _Table(where, (row for file in files for row in _rows(file, name)))


def _rows(file: Path, name: str) -> Iterator[tuple[str, Row]]:
    suffix = data_suffix(file)
    if name == "qrels" and suffix in TREC_SUFFIXES and (suffix not in TABLE_SUFFIXES or not has_head(file)):
        return read_trec(file)
    return (row for table in load_tables(file) for row in table)
