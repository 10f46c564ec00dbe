"""The rows of one file as they stand there: a JSON string, or a CSV cell, is the text that it is.

A table guesses a column's type from a block of a file, and changes or refuses what does not fit; here each row is
parsed by itself, in memory for one row, whatever the size of the file. Files may be compressed (`.jsonl.gz`).
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .unpacking import packing, unpacked

Row = dict[str, Any]
ROW_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")  # read here; parquet has types of its own
_BLOCK = 1 << 20  # characters of a .json file that are read at once
_BETWEEN = (re.compile(r"\s*"), re.compile(r"\s*,?\s*"))  # before the first row, before the others
_DECODE = json.JSONDecoder().raw_decode
_POINTER = b"version https://git-lfs.github.com/spec/"
_MAGIC = {
    b"\x1f\x8b": "is compressed by gzip: add .gz to its name.",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: add .zst to its name.",
    b"\xfd7zX": "is compressed by xz: add .xz to its name.",
    b"\x04\x22\x4d\x18": "is compressed by lz4: unpack it.",
    b"PK\x03\x04": "is a zip archive: unpack it.",
    b"PAR1": "is a parquet file: call it .parquet.",
    b"\xff\xfe": "is UTF-16: save it as UTF-8.",
    b"\xfe\xff": "is UTF-16: save it as UTF-8.",
}


def data_suffix(path: Path) -> str:
    """The suffix that says how a file is read, in lower case, without a compression's: ".jsonl" of "a.JSONL.gz"."""
    return (path.with_suffix("") if packing(path) else path).suffix.lower()


def read_rows(path: Path, numbers: tuple[str, ...] = ()) -> Iterator[tuple[str, Row]]:
    """(where it stands, row) for each row of a .jsonl, .json, .csv or .tsv file, in order; blank lines are none.

    Cells of a table named in `numbers` become numbers where all of the cell is one; an empty cell is None. A lone
    surrogate, which no UTF-8 text can hold, becomes U+FFFD.

    Raises ValueError, naming the file and the line, for what cannot be read: bytes that are no UTF-8, text that is no
    JSON, a row that is no object, a table with a column twice, a line of it with more or fewer cells than its head.
    """
    reader = {".jsonl": _json_lines, ".json": _json_values}.get(data_suffix(path))
    with opened(path) as stream:
        try:
            yield from _table(stream, path, numbers) if reader is None else reader(stream, path)
        except UnicodeDecodeError:
            raise no_utf8(path) from None


def file_stamp(path: Path) -> tuple[str, int, int, int, int]:
    """What changes when a file does, its path first: by a copy that keeps the size and the time, too."""
    status = path.stat()
    return str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def is_loose_link(path: Path) -> bool:
    """Whether a path is a symbolic link that leads to nothing, or to itself."""
    return path.is_symlink() and not path.exists()


def refuse_loose_link(path: Path) -> None:
    """ValueError for a symbolic link that leads to nothing, or to itself."""
    if is_loose_link(path):
        raise ValueError(f"{str(path)!r} is a symbolic link that leads to nothing: remove it, or name another file.")


def refuse_pointer(path: Path) -> None:
    """ValueError for what stands in the place of a file in a clone that was made without Git LFS."""
    with open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError(f"{path} is a pointer of Git LFS and not the file itself: fetch it by `git lfs pull`.")


def no_utf8(path: Path, text: bool = False) -> ValueError:
    """The error of a file that is no UTF-8; it names the first wrong line, which takes another look at the file."""
    if (problem := _other_kind(path, text)) is not None:
        return ValueError(f"{path} {problem}")
    with unpacked(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte {line[error.start]:#04x}"
                return ValueError(f"{path}, line {number} is not UTF-8 ({byte}): save the file as UTF-8.")
    return ValueError(f"{path} is not UTF-8: save it as UTF-8.")


def _other_kind(path: Path, text: bool = False) -> str | None:
    """What a file is by its first bytes, where that is no text; what to do where rows would not do either (`text`)."""
    with open(path, "rb") as file:
        start = file.read(4)
    kinds = () if packing(path) else _MAGIC.items()
    if start == b"PAR1" and (text or data_suffix(path) == ".parquet"):
        return "is a parquet file: give a text file."
    return next((problem for magic, problem in kinds if start.startswith(magic)), None)


@contextmanager
def opened(path: Path, text: bool = False) -> Iterator[io.TextIOBase]:
    """A file as text, unpacked, its byte order mark left out, its line ends as they are.

    ValueError for a file that is another kind of file, or cut off or damaged; `text`: where rows would not do.
    """
    refuse_loose_link(path)
    refuse_pointer(path)
    if (problem := _other_kind(path, text)) is not None:
        raise ValueError(f"{path} {problem}")
    # csv reads line ends itself; JSON cannot hold a bare one
    with unpacked(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text_stream:
        yield text_stream


def _json_lines(stream: io.TextIOBase, path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _checked(_parse(line, where), line, where)


def _json_values(stream: io.TextIOBase, path: Path) -> Iterator[tuple[str, Row]]:
    """The objects of a list, or objects one behind the other."""
    text, number = "", 0
    while not text.strip() and (block := stream.read(_BLOCK)):
        text = block
    is_list = text.lstrip().startswith("[")
    position = text.index("[") + 1 if is_list else 0
    while True:
        position += len(_BETWEEN[number > 0].match(text, position)[0])  # type: ignore[index]  # it always matches
        where = f"{path}, row {number + 1}"
        row, end, problem = _value(text, position, where)
        if end in (position, len(text)):  # cut off, or it might go on
            if block := stream.read(max(_BLOCK, len(text))):  # doubled: a long row is not parsed again and again
                text, position = text[position:] + block, 0
                continue
            if end == position:
                break
        yield where, _checked(row, text[position:end], where)
        position, number = end, number + 1
    if text[position:].strip() != ("]" if is_list else ""):
        raise ValueError(f"{where} is no JSON ({problem}): mend it.")


def _value(text: str, start: int, where: str) -> tuple[Any, int, str]:
    """(the value at `start`, where it ends, why there is none); it ends where it starts if there is none."""
    try:
        return *_DECODE(text, start), ""
    except RecursionError:
        raise ValueError(f"{where} is nested too deep to be read: write it flatter.") from None
    except ValueError as error:
        return None, start, str(error)


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        raise ValueError(f"{where} is nested too deep to be read: write it flatter.") from None
    except ValueError as error:
        raise ValueError(f"{where} is no JSON ({error}): mend it.") from None


def _checked(row: Any, text: str, where: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is a {type(row).__name__} and must be an object with fields, {{...}}.")
    return without_surrogates(row) if "\\ud" in text or "\\uD" in text else row


def without_surrogates(value: Any) -> Any:
    """A row or a part of one, U+FFFD for each lone surrogate in its texts."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value
    if isinstance(value, list):
        return [without_surrogates(part) for part in value]
    if isinstance(value, dict):
        return {without_surrogates(name): without_surrogates(part) for name, part in value.items()}
    return value


def _table(stream: io.TextIOBase, path: Path, numbers: tuple[str, ...]) -> Iterator[tuple[str, Row]]:
    lines = _table_lines(stream, path)
    where, head = next(lines, ("", []))
    if twice := next((name for number, name in enumerate(head) if name in head[:number]), None):
        raise ValueError(f"{where}: the column {twice!r} stands twice in the head: rename one.")
    for where, cells in lines:
        if len(cells) == 1 < len(head) and not cells[0].strip():
            continue  # blanks alone
        if len(cells) != len(head):
            many = "more" if len(cells) > len(head) else "fewer"
            raise ValueError(
                f"{where} has {many} cells ({len(cells)}) than the {len(head)} columns: quote cells that hold the "
                "separator, and give empty ones their place."
            )
        yield where, {name: _cell(cell, name in numbers) for name, cell in zip(head, cells, strict=True)}


def _table_lines(stream: io.TextIOBase, path: Path) -> Iterator[tuple[str, list[str]]]:
    """(where it stands, cells) for the head and each row; without lines that are empty."""
    tabs = data_suffix(path) == ".tsv"  # as BEIR has them: no quotes
    style: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    csv.field_size_limit(2**31 - 1)
    table, start = csv.reader(stream, **style), 1
    try:
        for cells in table:
            if cells:
                yield f"{path}, line {table.line_num}", cells
            start = table.line_num + 1
    except csv.Error as error:  # of a quote that is not closed the line is that where its row begins
        raise ValueError(f"{path}, line {start} is no row of a table ({error}): mend its quotes.") from None


def _cell(cell: str | None, number: bool) -> Any:
    if not cell:
        return None
    if number:
        try:
            value = float(cell)
        except ValueError:
            return cell
        return int(value) if math.isfinite(value) and value.is_integer() else value
    return cell
