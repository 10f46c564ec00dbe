"""Documents as rows with `text`: plain text on disk, or rows of any source that have them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets

from hub_cards.travelling.checks import checked

from .joining import joined
from .plain_text import json_line, refuse_rows
from .readers import COMPRESSIONS, data_suffix, file_stamp, no_utf8, without_surrogates
from .sources import Row, RowSource, is_data_file, load_tables, path_of
from .tables import Table, TypedTable
from .written import generated

# Characters of a row at most (a line more): a file of any size passes through memory in parts.
PART_SIZE = 2**23
# Of a folder of rows; other data files may be somebody's documents.
_ROW_SUFFIXES = (".jsonl", ".parquet")
_DOCUMENT = datasets.Features({"name": datasets.Value("string"), "text": datasets.Value("string")})
FEATURES = datasets.Features({"text": datasets.Value("string")})


def text_files(folder: Path) -> list[Path]:
    """Every file below `folder`, by path; hidden files and Python's caches left out."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file for file in files if not _is_hidden(file.relative_to(folder))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "__pycache__")) for part in path.parts)


def plain_files(source: RowSource, is_rows: Callable[[Path], bool]) -> list[Path] | None:
    """The files of plain text that `source` names, each a document; None where it is rows.

    Args:
        is_rows: whether a folder's file holds rows; in a folder of nothing else, all do.

    Raises ValueError for rows under a name that does not say so: a single file that begins with JSON, and a folder of
    such files alone (a folder of documents may hold some).
    """
    path = path_of(source)
    if path is None or not path.exists() or (path.is_file() and is_data_file(path)):
        return None
    files = text_files(path) if path.is_dir() else [path]
    if path.is_dir() and files and all(map(is_rows, files)):
        return None
    if files and all(map(_hides_rows, files)):
        refuse_rows(files[0])
    return files


def _hides_rows(file: Path) -> bool:
    if is_data_file(file) or file.suffix in COMPRESSIONS:
        return False
    try:
        return json_line(file) is not None
    except ValueError:  # not text at all, as some files of a folder may be
        return False


def read_text_files(files: list[Path], streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    """A row `text` for each file; for every 8 Mi characters, cut at a line end, of a longer one.

    Of several files one that is not UTF-8 is left out; one that is not from its 8 Mi'th character on, or alone, is
    refused. Map-style rows are written to the cache of `datasets` and mapped into memory;
    a file that changed is read anew. Raises ValueError where no file holds text, and for such a file.
    """
    stamped, alone = [file_stamp(file) for file in files], len(files) == 1
    if not any(True for _ in _read_parts(stamped, alone)):
        names = [str(file) for file in files[:3]]
        raise ValueError(
            f"None of {len(files)} files ({names} ...) holds text: give one UTF-8 file that is not blank."
        )
    # The files' stamps make the cache's key; a list of files is what `datasets` shares among workers.
    return generated(_read_parts, FEATURES, {"files": stamped, "alone": alone}, streaming)


def _read_parts(files: list[tuple[Any, ...]], alone: bool) -> Iterator[dict[str, str]]:
    for name, *_ in files:
        with open(name, encoding="utf-8-sig", newline="") as stream:  # a text is what was given, line ends and all
            begun = False
            try:
                while lines := stream.readlines(PART_SIZE):
                    begun, text = True, "".join(lines)
                    if text.strip():
                        yield {"text": text}
            except UnicodeDecodeError:
                if begun or alone:  # where its beginning was given, it is no file of another kind
                    raise no_utf8(Path(name)) from None


@checked
def load_documents(
    source: RowSource, split: str = "train", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """Rows with `text`: of a data file or Hub id with that column, or of plain text. (Other rows load as they are.)

    A text file is one document. Of a folder (read recursively, hidden files left out) every UTF-8 file is a document;
    `name` is its path below the folder. A folder that holds .jsonl or .parquet files alone is a folder of rows.
    Raises ValueError for a path that does not exist or holds no text, and for a single file that is not UTF-8.
    """
    return document_table(source, split, streaming).dataset()


def document_table(source: RowSource, split: str = "train", streaming: bool = False) -> Table:
    """The same as a table, which knows where its rows stand."""
    files = plain_files(source, lambda file: data_suffix(file) in _ROW_SUFFIXES)
    if files is None:
        return joined(load_tables(source, split, streaming))
    path = Path(str(source))
    return _plain(files, path if path.is_dir() else path.parent, streaming)


class DocumentTable(TypedTable):
    """Documents of a folder, `name`, each known by its file."""

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        """(where it stands, row) for each row."""
        return ((str(Path(str(self.name)) / row["name"]), row) for row in self.rows)

    def where(self, number: int) -> str:
        """The file of a row; of a stream its number."""
        if isinstance(self.rows, datasets.Dataset):
            return str(Path(str(self.name)) / self.rows[number]["name"])
        return f"{self.name}, document {number + 1}"


def document_text(row: Row, where: str) -> str:
    """The text of a row of a table of documents; ValueError, naming the row, where it has none or a blank one."""
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        raise ValueError(f"{where}: field 'text' is {row.get('text')!r}; it must be a text that is not blank.")
    return row["text"]


def _plain(files: list[Path], folder: Path, streaming: bool) -> TypedTable:
    keywords: dict[str, Any] = {
        "files": [file_stamp(file) for file in files],
        "folder": folder,
        "alone": len(files) == 1,
    }
    if not any(True for _ in _whole_documents(**keywords)):
        where = f"File {str(files[0])!r}" if len(files) == 1 else f"Folder {str(folder)!r}"
        raise ValueError(f"{where} holds no text: give one UTF-8 text or more that is not blank.")
    return DocumentTable(generated(_whole_documents, _DOCUMENT, keywords, streaming), str(folder))


def _whole_documents(files: list[tuple[Any, ...]], folder: Path, alone: bool) -> Iterator[dict[str, str]]:
    for name, *_ in files:
        try:
            text = Path(name).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            if alone:
                raise no_utf8(Path(name)) from None
            continue
        if text.strip():
            path = Path(name).relative_to(folder.absolute()).as_posix()
            yield {"name": without_surrogates(path), "text": text}
