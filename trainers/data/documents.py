"""Documents as rows with `text`: plain text on disk, or rows of any source that have them."""

import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import logging

from hub_cards.travelling.checks import checked

from .folders import are_rows, is_data_file, is_text, text_files
from .joining import joined
from .plain_text import json_line, refuse_rows
from .readers import file_stamp, no_utf8, opened, without_surrogates
from .sources import Row, RowSource, load_tables, path_of
from .tables import Table, TypedTable
from .written import generated

logger = logging.get_logger(__name__)
# Characters of a row at most (a line more): a file of any size passes through memory in parts.
PART_SIZE = 2**23
_DOCUMENT = datasets.Features({"name": datasets.Value("string"), "text": datasets.Value("string")})
FEATURES = datasets.Features({"text": datasets.Value("string")})


def plain_files(source: RowSource) -> list[Path] | None:
    """The files of plain text that `source` names, each a document; None where it is rows.

    A folder of data files, beside which nothing but a card or a licence stands, is rows; of a mixture with texts all
    are texts, and a warning says so. Another counts the files of a folder that are no text, and are left out.

    Raises ValueError for rows under a name that does not say so: a single file that begins with JSON, and a folder of
    such files alone (a folder of documents may hold some), and for a folder that `save_to_disk` wrote.
    """
    path = path_of(source)
    if path is None or not path.exists() or (path.is_file() and is_data_file(path)):
        return None
    if path.is_file():
        refuse_rows(path)
        return [path]
    files = text_files(path)
    if are_rows(path, files):
        return None
    texts = _readable(path, files)
    if texts and texts == files and all(map(_hides_rows, texts)):
        refuse_rows(texts[0])
    return texts


def _readable(folder: Path, files: list[Path]) -> list[Path]:
    """The files that begin as text."""
    kept = [file for file in files if is_text(file)]
    if len(kept) < len(files):
        first = next(file for file, same in itertools.zip_longest(files, kept) if file != same)
        logger.warning_once(
            f"{len(files) - len(kept)} of {len(files)} files of {str(folder)!r} are no UTF-8 text, or pointers of Git "
            f"LFS to such, and are left out; the first of them: {first.name}."
        )
    return kept


def _hides_rows(file: Path) -> bool:
    return not is_data_file(file) and json_line(file) is not None


def read_text_files(files: list[Path], streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    """A row `text` for each file; for every 8 Mi characters, cut at a line end, of a longer one.

    Map-style rows are written to the cache of `datasets` and mapped into memory; a file that changed is read anew.
    Raises ValueError where no file holds text, and for one of which a part is not UTF-8.
    """
    stamped = [file_stamp(file) for file in files]
    if not any(True for _ in _read_parts(stamped)):
        names = [str(file) for file in files[:3]]
        raise ValueError(
            f"None of {len(files)} files ({names} ...) holds text: give one UTF-8 file that is not blank."
        )
    # The files' stamps make the cache's key; a list of files is what `datasets` shares among workers.
    return generated(_read_parts, FEATURES, {"files": stamped}, streaming)


def _read_parts(files: list[tuple[Any, ...]]) -> Iterator[dict[str, str]]:
    for name, *_ in files:
        with _read(Path(name)) as stream:
            while lines := stream.readlines(PART_SIZE):
                if (text := "".join(lines)).strip():
                    yield {"text": text}


@contextmanager
def _read(file: Path) -> Iterator[io.TextIOBase]:
    """A text as it was given, line ends and all; ValueError, naming the line, for bytes that are no UTF-8."""
    with opened(file) as stream:
        try:
            yield stream
        except UnicodeDecodeError:
            raise no_utf8(file) from None


@checked
def load_documents(
    source: RowSource, split: str = "train", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """Rows with `text`: of a data file or Hub id with that column, or of plain text. (Other rows load as they are.)

    A text file is one document. Of a folder (read recursively, hidden files left out) every UTF-8 file is a document;
    `name` is its path below the folder. A folder of data files alone, a card or a licence beside them, is one of rows.
    Files may be compressed (`a.txt.gz`). Raises ValueError for a path that does not exist or holds no text, and for a
    single file that is not UTF-8, or one that is not behind its beginning.
    """
    return document_table(source, split, streaming).dataset()


def document_table(source: RowSource, split: str = "train", streaming: bool = False) -> Table:
    """The same as a table, which knows where its rows stand."""
    files = plain_files(source)
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
    keywords: dict[str, Any] = {"files": [file_stamp(file) for file in files], "folder": folder}
    if not any(True for _ in _whole_documents(**keywords)):
        where = f"File {str(files[0])!r}" if len(files) == 1 else f"Folder {str(folder)!r}"
        raise ValueError(f"{where} holds no text: give one UTF-8 text or more that is not blank.")
    return DocumentTable(generated(_whole_documents, _DOCUMENT, keywords, streaming), str(folder))


def _whole_documents(files: list[tuple[Any, ...]], folder: Path) -> Iterator[dict[str, str]]:
    for name, *_ in files:
        with _read(Path(name)) as stream:
            text = stream.read()
        if text.strip():
            path = Path(name).relative_to(folder.absolute()).as_posix()
            yield {"name": without_surrogates(path), "text": text}
