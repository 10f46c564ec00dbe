"""What `lookback encode` wrote, left where it is: of its files no more is in memory than what is asked for.

.safetensors and .npy files are mapped, one at a time; of .parquet ones a row group is read at a time.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open

from .pieces import Column, Pieces
from .stored import (
    ABOUT,
    IDS_DIGEST,
    Stored,
    check_columns,
    complete_files,
    numbers_of,
    read_about,
    read_ids,
    unreadable,
)


class _Piece(NamedTuple):
    """A file, or a row group of one: how many rows it has, and how its columns are read."""

    rows: int
    numbers: Callable[[], torch.Tensor]
    ids: Callable[[], list[str]]
    texts: Callable[[], list[str]] | None = None


class _File(NamedTuple):
    width: int
    about: dict[str, str]
    pieces: list[_Piece]


def open_stored(path: str | Path) -> Stored:
    """As `load_stored` gives it, with `Pieces` and `Column`s in place of what is in memory.

    Raises ValueError as that does, for what is wrong with numbers and ids when they are read.
    """
    files = [_opened(file) for file in complete_files(path)]
    if any(file.about != files[0].about or file.width != files[0].width for file in files):
        raise ValueError(f"{str(path)!r} are files of several runs: put those of one there, or encode anew.")
    pieces = [piece for file in files for piece in file.pieces]
    sizes = [piece.rows for piece in pieces]
    texts: Sequence[str] | None = None
    if all(piece.texts for piece in pieces):
        texts = Column(sizes, lambda number: [] if (read := pieces[number].texts) is None else read())
    return Stored(
        Pieces(sizes, files[0].width, lambda number: pieces[number].numbers()),
        Column(sizes, lambda number: pieces[number].ids()),
        texts,
        files[0].about,
    )


def is_whole(path: Path, rows: int, about: Mapping[str, str]) -> bool:
    """Whether a file, with what lies beside it, holds so many embeddings and ids, and these facts."""
    try:
        file = _opened(path)
        ids = sum(len(piece.ids()) for piece in file.pieces)
    except (OSError, EOFError, ValueError, pa.ArrowException):
        return False
    return sum(piece.rows for piece in file.pieces) == ids == rows and about.items() <= file.about.items()


def _opened(path: Path) -> _File:
    readers = {".safetensors": _open_safetensors, ".parquet": _open_parquet, ".npy": _open_npy}
    try:
        return readers[path.suffix](path)
    except (SafetensorError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, error) from error


def _open_safetensors(path: Path) -> _File:
    with safe_open(path, "pt") as file:
        rows, width = file.get_slice("embeddings").get_shape()
        about = file.metadata() or {}
    return _of_one_piece(path, rows, width, about, lambda: _safetensors(path))


def _safetensors(path: Path) -> torch.Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor("embeddings")


def _open_npy(path: Path) -> _File:
    rows, width = np.load(path, mmap_mode="r").shape
    return _of_one_piece(path, rows, width, read_about(path), lambda: _npy(path))


def _npy(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # torch warns of what cannot be written to


def _of_one_piece(
    path: Path, rows: int, width: int, about: dict[str, str], numbers: Callable[[], torch.Tensor]
) -> _File:
    digest = about.pop(IDS_DIGEST, None)
    return _File(width, about, [_Piece(rows, numbers, lambda: read_ids(path, rows, digest))])


def _open_parquet(path: Path) -> _File:
    file = pq.ParquetFile(path)
    names = check_columns(file)
    about = json.loads((file.schema_arrow.metadata or {}).get(ABOUT.encode(), b"{}"))
    kind = file.schema_arrow.field("embedding").type
    groups = range(file.metadata.num_row_groups)
    if hasattr(kind, "list_size"):
        width = kind.list_size
    else:  # as other programs write them
        width = numbers_of(file.read_row_group(0, ["embedding"])).shape[1] if groups else 0
    return _File(width, about, [_row_group(path, file, number, width, "text" in names) for number in groups])


def _row_group(path: Path, file: pq.ParquetFile, number: int, width: int, has_texts: bool) -> _Piece:
    def column(name: str) -> list[str]:
        read = pq.ParquetFile(path).read_row_group(number, [name]).column(name).to_pylist()
        return [str(one) for one in read] if name == "id" else read

    def numbers() -> torch.Tensor:
        try:
            return numbers_of(pq.ParquetFile(path).read_row_group(number, ["embedding"]), width)
        except ValueError as error:
            raise unreadable(path, error) from error

    return _Piece(
        file.metadata.row_group(number).num_rows,
        numbers,
        lambda: column("id"),
        (lambda: column("text")) if has_texts else None,
    )
