"""Queries, passages and relevance judgements in BEIR's form: a folder, a folder of such folders, or a Hub id.

A folder holds

    corpus.jsonl       {"_id": ..., "title": ..., "text": ...} a line; `title` may be missing
    queries.jsonl      {"_id": ..., "text": ...}
    qrels/test.tsv     query-id, corpus-id, score, tab-separated under a header; no score: 1

each of them also as .jsonl, .parquet, .csv or .tsv, or as a folder of such files, which is what a clone of a
NanoBEIR repo has. On the Hub, corpus, queries and qrels are configurations of a data set.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from .beir_tables import Table, choose_split, has_table, read_table
from .rows import Row

logger = logging.getLogger(__name__)
TABLES = ("corpus", "queries", "qrels")


@dataclass
class RetrievalData:
    """What a retriever is evaluated on.

    Attributes:
        queries: {query id: text}, each with a relevant passage.
        corpus: {passage id: text}, title first.
        qrels: {query id: {passage id: grade}}, of the queries above; a grade above 0 is relevant.
        left_out: queries without a relevant passage, which cannot be scored.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, float]]
    left_out: int = 0


def is_retrieval_source(source: Any) -> bool:
    """Whether `source` is a folder in BEIR's form, or a folder of such folders."""
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return False
    return _is_one(Path(source)) or bool(_parts(Path(source)))


def is_collection(source: str | Path) -> bool:
    """Whether `source` is a folder of folders in BEIR's form."""
    return Path(source).is_dir() and not _is_one(Path(source))


def load_retrieval_data(
    source: str | Path, split: str | None = None, revision: str | None = None
) -> dict[str, RetrievalData]:
    """The data sets at `source` by name: the folder's own, or those of the folders in it; of a Hub id its last part.

    Args:
        split: which judgements to read where there are several; default "test", or the only one there is.
        revision: branch, tag or commit of a Hub id.

    Raises ValueError, naming the file, for a table or field that is missing, an empty one, an id that stands twice,
    and judgements that name unknown ids. Queries without a relevant passage are left out, and counted in a warning.
    """
    folder = Path(source)
    if not folder.is_dir():
        if folder.exists() or folder.is_absolute() or str(source).count("/") != 1:
            raise ValueError(f"There is no folder {str(source)!r}; give a path that exists or a Hub id user/name.")
        return {folder.name: _load_hub(str(source), split, revision)}
    if revision is not None:
        raise ValueError(f"revision={revision!r} is for a Hub id; {str(source)!r} is a folder.")
    parts = [folder] if _is_one(folder) else _parts(folder)
    if not parts:
        raise ValueError(f"Folder {str(source)!r} holds no corpus, queries and qrels, and no folder that does.")
    return {part.resolve().name: _load_folder(part, split) for part in parts}


def _is_one(folder: Path) -> bool:
    return any(has_table(folder, name) for name in TABLES)


def _parts(folder: Path) -> list[Path]:
    return [part for part in sorted(folder.iterdir()) if part.is_dir() and _is_one(part)]


def _load_folder(folder: Path, split: str | None) -> RetrievalData:
    return _combine(*(read_table(folder, name, split if name == "qrels" else None) for name in TABLES))


def _load_hub(repo_id: str, split: str | None, revision: str | None) -> RetrievalData:
    configurations = datasets.get_dataset_config_names(repo_id, revision=revision)
    names = dict(zip(TABLES, TABLES, strict=True))
    if "qrels" not in configurations and "default" in configurations:
        names["qrels"] = "default"  # repos of MTEB
    if missing := sorted(set(names.values()) - set(configurations)):
        raise ValueError(f"{repo_id!r} lacks the configuration {missing[0]!r}; it has {', '.join(configurations)}.")
    tables = []
    for name, configuration in names.items():
        splits = datasets.load_dataset(repo_id, configuration, revision=revision)
        chosen = choose_split(list(splits), split, f"{repo_id}, {name}") if name == "qrels" else list(splits)
        rows = datasets.concatenate_datasets([splits[part] for part in chosen])
        tables.append(Table(f"{repo_id}, {configuration}", rows))
    return _combine(*tables)


def _combine(corpus: Table, queries: Table, qrels: Table) -> RetrievalData:
    passages = _texts(corpus)
    asked = _texts(queries)
    judged = _judgements(qrels, asked, passages)
    kept = {query: text for query, text in asked.items() if any(grade > 0 for grade in judged.get(query, {}).values())}
    if not kept:
        raise ValueError(f"{qrels.where}: no query has a relevant passage; grades above 0 are relevant.")
    if left_out := len(asked) - len(kept):
        logger.warning(
            "%s: %d of %d queries have no relevant passage and are left out.", queries.where, left_out, len(asked)
        )
    return RetrievalData(kept, passages, {query: judged[query] for query in kept}, left_out)


def _texts(table: Table) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, row in enumerate(table.rows):
        identifier = _field(row, ("_id", "id"), number, table.where)
        if identifier in texts:
            raise ValueError(f"{table.where}: the id {identifier!r} stands twice (row {number}, the first is 0).")
        texts[identifier] = passage_text(row, f"{table.where}, row {number} (the first is 0)")
    if not texts:
        raise ValueError(f"{table.where} is empty; it needs one row or more.")
    return texts


def passage_text(row: Mapping[str, Any], where: str) -> str:
    """`title` and `text` of a row with a blank between, as BEIR has it; ValueError, naming `where`, without a text."""
    text, title = row.get("text"), row.get("title") or ""
    if not isinstance(text, str) or not isinstance(title, str):
        raise ValueError(f"{where}: field 'text' is {text!r}, 'title' {title!r}; both must be texts.")
    return f"{title} {text}".strip() if title else text


def _judgements(table: Table, queries: Mapping[str, str], corpus: Mapping[str, str]) -> dict[str, dict[str, float]]:
    judged: dict[str, dict[str, float]] = {}
    unknown: dict[str, list[str]] = {"query": [], "passage": []}
    for number, row in enumerate(table.rows):
        query = _field(row, ("query-id", "query_id"), number, table.where)
        passage = _field(row, ("corpus-id", "corpus_id"), number, table.where)
        for kind, identifier, known in (("query", query, queries), ("passage", passage, corpus)):
            if identifier not in known:
                unknown[kind].append(identifier)
        judged.setdefault(query, {})[passage] = _grade(row, number, table.where)
    for kind, ids in unknown.items():
        if ids:
            file = "queries" if kind == "query" else "corpus"
            raise ValueError(f"{table.where} names {len(ids)} {kind} ids that {file} lacks, the first is {ids[0]!r}.")
    return judged


def _field(row: Row, names: tuple[str, ...], number: int, where: str) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if not isinstance(value, str | int):
        found = "is missing" if value is None else f"is {value!r}"
        raise ValueError(f"{where}, row {number} (the first is 0): field {names[0]!r} {found}; it must be an id.")
    return str(value)


def _grade(row: Row, number: int, where: str) -> float:
    value = row.get("score")
    try:
        return 1.0 if value is None else float(value)
    except ValueError:
        raise ValueError(
            f"{where}, row {number} (the first is 0): field 'score' is {value!r}; it must be a number."
        ) from None
