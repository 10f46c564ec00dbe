"""Files of plain text: a text a line, all of it as one, or settings in YAML; not rows under another name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .readers import Row, no_utf8, opened, without_surrogates


def read_lines(path: Path) -> Iterator[tuple[str, Row]]:
    """(where it stands, {"text", "id"}) for each line that is not blank; the id is the line's number, from 0.

    Raises ValueError where the first one is JSON: rows, in a file whose name does not say so.
    """
    refuse_rows(path)
    with opened(path) as stream:
        try:
            for number, line in enumerate(stream):
                if line.strip():
                    yield f"{path}, line {number + 1}", {"text": line.rstrip("\r\n"), "id": number}
        except UnicodeDecodeError:
            raise no_utf8(path) from None


def refuse_rows(path: Path) -> None:
    """ValueError for a file whose first line that is not blank is JSON: rows, under a name that does not say so.

    Also where that line holds a NUL, as archives and UTF-16 without a mark do.
    """
    number, line = _first_line(path)
    if "\0" in line:
        raise ValueError(f"{path}, line {number} holds a NUL, so it is no text in UTF-8: unpack or convert it.")
    if _is_json(line):
        raise ValueError(
            f"{path}, line {number} is JSON, and a file of this name is plain text: let its name end in .jsonl, or in "
            ".json where a row takes several lines."
        )


def json_line(path: Path) -> int | None:
    """The number of the first line that is not blank, where it is JSON; None where it is not, or no UTF-8."""
    number, line = _first_line(path)
    return number if _is_json(line) else None


def _first_line(path: Path) -> tuple[int, str]:
    """The first line that is not blank and its number; an empty one where there is none, or where it is no UTF-8."""
    with opened(path) as stream:
        try:
            return next(((number, line) for number, line in enumerate(stream, 1) if line.strip()), (0, ""))
        except UnicodeDecodeError:
            return 0, ""


def _is_json(line: str) -> bool:
    """Whether a line is an object or a list of JSON, or the beginning of one that has a line for each of its parts."""
    if line.strip() in ("{", "[", "[{"):
        return True
    try:
        return isinstance(json.loads(line.lstrip("\ufeff")), dict | list)
    except (ValueError, RecursionError):
        return False


def read_text(path: Path) -> str:
    """All of a text file, such as settings or a list of words, as it is but for a byte order mark.

    Raises ValueError, naming the file and the line, for bytes that are no UTF-8.
    """
    with opened(path, text=True) as stream:
        try:
            return stream.read()
        except UnicodeDecodeError:
            raise no_utf8(path, text=True) from None


class _AsWritten(yaml.SafeLoader):
    """What else would become another text of it, such as yes, 007 and 2020-01-01, is the text that stands there."""


for _kind in ("bool", "float", "int", "null", "timestamp"):
    _AsWritten.add_constructor(f"tag:yaml.org,2002:{_kind}", yaml.SafeLoader.construct_yaml_str)


def read_yaml(path: Path, as_written: bool = False) -> Any:
    """What a file of YAML holds. Raises ValueError, naming the file and the line, for one that is none.

    Args:
        as_written: each scalar as text.
    """
    loader = _AsWritten if as_written else yaml.SafeLoader
    try:
        return without_surrogates(yaml.load(read_text(path), loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise ValueError(f"{where} is no YAML ({problem}): mend it.") from error
    except RecursionError:
        raise ValueError(f"{path} is nested too deep to be read: write it flatter.") from None
