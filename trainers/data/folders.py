"""What a folder holds: data files with rows, or texts; hidden files are neither. What is left out is said."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import logging

from .readers import ROW_SUFFIXES, data_suffix, is_loose_link, opened, refuse_loose_link, refuse_pointer
from .unpacking import COMPRESSIONS

logger = logging.get_logger(__name__)
DATA_SUFFIXES = (*ROW_SUFFIXES, ".parquet")  # files that end otherwise are plain text, where that is taken
SUFFIXES = f"{', '.join(DATA_SUFFIXES)}, or the first four with {', '.join(COMPRESSIONS)} behind"
CARDS = ("README", "LICENSE", "LICENCE", "CITATION", "NOTICE")  # what stands beside the rows in a clone of a data set
INFOS = ("dataset_info.json", "dataset_infos.json")  # what `datasets` writes about the rows beside it
_SPLIT = re.compile(r"(train|test|val(?:id(?:ation)?)?|dev)(?![^\W_])", re.IGNORECASE)
# Names of what is text where no pointer of Git LFS stands in its place; among texts, files of rows are texts.
_TEXT_SUFFIXES = ("", ".txt", ".text", ".md", ".rst", ".tex", ".html", ".htm", ".xml", ".py", *ROW_SUFFIXES)
_HEAD = 2**16  # characters that say whether a file is text


def is_data_file(path: Path) -> bool:
    """Whether a file of this name holds rows."""
    return data_suffix(path) in DATA_SUFFIXES and path.name != data_suffix(path)


def text_files(folder: Path) -> list[Path]:
    """Every file below `folder`, by path; hidden files and Python's caches left out.

    Links to folders are followed, and each folder is read once. Links that lead to nothing are among the files, as
    who reads them refuses them. Raises OSError for a folder that may not be read.
    """
    return sorted(file for file in _walk(folder, set()) if file.is_file() or is_loose_link(file))


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    links: list[Path] = []  # followed last: a folder that is itself below has its own name
    for place, folders, names in os.walk(folder, onerror=_raise):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        links += [path for name in folders if (path := Path(place, name)).is_symlink()]
        yield from (Path(place, name) for name in names if not _is_hidden(name))
    for link in links:
        yield from _walk(link, seen)


def _raise(error: OSError) -> None:
    raise error


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__pycache__"))


def data_files(folder: Path) -> list[Path]:
    """The data files of a folder, by name; ValueError where it has none, and where `save_to_disk` wrote it.

    A warning names what may not have been meant: files of folders below, which are left out, and several splits.
    """
    files = found_data_files(folder)
    found = (file for file in folder.glob("*/*") if _is_named_as_rows(file) and not _is_hidden(file.parent.name))
    below = sorted(file for file in found if file.is_file())
    if not files:
        hint = (
            f", and {str(below[0].parent)!r} does: give that"
            if below
            else f": give some whose names end in {SUFFIXES}"
        )
        raise ValueError(f"Folder {str(folder)!r} holds no data files{hint}.")
    if below:
        logger.warning_once(
            f"Folder {str(folder)!r}: data files of folders below ({below[0].relative_to(folder)} ...) are not read."
        )
    splits = {match[1].lower(): file.name for file in files if (match := _SPLIT.match(file.name))}
    if len(splits) > 1:
        logger.warning_once(
            f"Folder {str(folder)!r} holds several splits ({', '.join(splits.values())}), and all of them are read: "
            "give the files of one where one is meant."
        )
    return files


def found_data_files(folder: Path) -> list[Path]:
    """The data files of a folder, if any, by name; ValueError for a folder that `save_to_disk` wrote."""
    refuse_saved(folder)
    files = sorted(file for file in folder.iterdir() if _is_named_as_rows(file))
    for file in files:
        refuse_loose_link(file)  # rows that are missing
    return [file for file in files if file.is_file()]


def _is_named_as_rows(file: Path) -> bool:
    return is_data_file(file) and not file.name.startswith(".") and file.name not in INFOS


def refuse_saved(folder: Path) -> None:
    """ValueError for a folder that `save_to_disk` of `datasets` wrote: its .json files are no rows."""
    if (folder / "dataset_dict.json").is_file() or ((folder / "state.json").is_file() and any(folder.glob("*.arrow"))):
        raise ValueError(
            f"{str(folder)!r} was written by `save_to_disk`: write the rows by `to_parquet`, or, in Python, give what "
            "`datasets.load_from_disk` loads."
        )


def is_text(file: Path) -> bool:
    """Whether a file begins as text; ValueError for what stands in the place of one: a loose link, a pointer."""
    refuse_loose_link(file)
    if data_suffix(file) in _TEXT_SUFFIXES:
        refuse_pointer(file)
    try:
        with opened(file) as stream:
            return "\0" not in stream.read(_HEAD)
    except ValueError:  # bytes that are no UTF-8, an archive, or packed and damaged
        return False


def are_rows(folder: Path, files: list[Path]) -> bool:
    """Whether the files below a folder are rows: data files, beside which nothing but a card or a licence stands.

    A warning tells of a mixture of data files and texts, which are all texts.
    """
    refuse_saved(folder)
    rows = [file for file in files if is_data_file(file)]
    others = [file for file in files if not is_data_file(file) and file.stem.upper() not in CARDS]
    texts = [file for file in others if is_text(file)] if rows else []  # a clone may hold pictures of its card
    if rows and texts:
        logger.warning_once(
            f"Folder {str(folder)!r} holds {len(rows)} data files ({rows[0].name} ...) beside {len(texts)} others "
            f"({texts[0].name} ...), and all are read as plain text: for the rows, give a folder of data files alone."
        )
    return bool(rows) and not texts


def corpus_files(folder: Path) -> list[Path]:
    """Every file below a folder, whose rows or lines are read; without the card of a data set, where it has rows."""
    refuse_saved(folder)
    files = [file for file in text_files(folder) if file.name not in INFOS]
    has_rows = any(map(is_data_file, files))
    return [file for file in files if not (has_rows and file.stem.upper() in CARDS)]
