"""Documents as rows with `text`: plain text on disk, or rows of any source that have them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from .sources import DATA_SUFFIXES, Row, RowSource, load_rows

# Characters of a row at most (a line more): a file of any size passes through memory in parts.
PART_SIZE = 2**23
_ROW_SUFFIXES = (".jsonl", ".parquet")  # of a folder of rows; other data files may be somebody's documents
FEATURES = datasets.Features({"text": datasets.Value("string")})


def text_files(folder: Path) -> list[Path]:
    """Every file below `folder`, by path; hidden files and Python's caches left out."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file for file in files if not _is_hidden(file.relative_to(folder))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "__pycache__")) for part in path.parts)


def read_text_files(files: list[Path], streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    """A row `text` for each file; for every 8 Mi characters, cut at a line end, of a longer one.

    A file that is not UTF-8 is left out. Map-style rows are written to the cache of `datasets` and mapped into memory;
    a file that changed is read anew. Raises ValueError where no file holds text.
    """
    stamped = [_stamp(file) for file in files]
    if not any(True for _ in _read(stamped)):
        names = [str(file) for file in files[:3]]
        raise ValueError(
            f"None of {len(files)} files ({names} ...) holds text: give one UTF-8 file that is not blank."
        )
    # The files' sizes and times make the cache's key; a list of files is what `datasets` shares among workers.
    keywords: dict[str, Any] = {"features": FEATURES, "gen_kwargs": {"files": stamped}}
    if streaming:
        return datasets.IterableDataset.from_generator(_read, **keywords)
    return datasets.Dataset.from_generator(_read, **keywords)


def _stamp(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file.absolute()), status.st_size, status.st_mtime_ns


def _read(files: list[tuple[str, int, int]]) -> Iterator[dict[str, str]]:
    for name, _, _ in files:
        with open(name, encoding="utf-8") as stream:
            try:
                while lines := stream.readlines(PART_SIZE):
                    text = "".join(lines)
                    if text.strip():
                        yield {"text": text}
            except UnicodeDecodeError:
                continue


def load_documents(
    source: RowSource, split: str = "train", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """Rows with `text`: of a data file or Hub id with that column, or of plain text. (Other rows load as they are.)

    A text file is one document. Of a folder (read recursively, hidden files left out) every UTF-8 file is a document;
    `name` is its path below the folder. A folder that holds .jsonl or .parquet files alone is a folder of rows.
    Raises ValueError for a path that does not exist or holds no text.
    """
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and path.is_dir():
        files = text_files(path)
        if files and all(file.suffix in _ROW_SUFFIXES for file in files):
            return datasets.concatenate_datasets(load_rows(source, split, streaming))
        return _as_dataset(_read_documents(files, path), f"Folder {str(path)!r}", streaming)
    if path is not None and path.is_file() and path.suffix not in DATA_SUFFIXES:
        return _as_dataset(_read_documents([path], path.parent), f"File {str(path)!r}", streaming)
    return load_rows(source, split, streaming)[0]


def _read_documents(files: list[Path], folder: Path) -> list[Row]:
    documents = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            documents.append({"name": file.relative_to(folder).as_posix(), "text": text})
    return documents


def _as_dataset(documents: list[Row], where: str, streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    if not documents:
        raise ValueError(f"{where} holds no text: give one UTF-8 text or more that is not blank.")
    rows = datasets.Dataset.from_list(documents)
    return rows.to_iterable_dataset() if streaming else rows
