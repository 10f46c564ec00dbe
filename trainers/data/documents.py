"""Plain text on disk as rows with `text`, read file by file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

# Characters of a row at most (a line more): a file of any size passes through memory in parts.
PART_SIZE = 2**23
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
            f"None of {len(files)} files ({names} ...) holds text; give one UTF-8 file that is not blank."
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
