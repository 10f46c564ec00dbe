"""What `lookback encode` wrote: its files, by name, and what is in them."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open

from hub_cards.travelling.checks import typed

from .embeddings import check_embeddings
from .pieces import Pieces

SUFFIXES = (".safetensors", ".parquet", ".npy")
ABOUT = "lookback"  # of a .parquet file's metadata
IDS_DIGEST = "sha256 of the ids"  # among the facts of embeddings whose ids are in a file beside them
_SHARD = r"-\d{5,}-of-\d{5,}"
_WHICH = "the file that `lookback encode` wrote"


class Stored(NamedTuple):
    """What `lookback encode` wrote: (N, stored width) numbers, N ids, texts where the file has them, and facts."""

    embeddings: torch.Tensor | Pieces
    ids: Sequence[str]
    texts: Sequence[str] | None
    about: dict[str, str]


def ids_path(path: str | Path) -> Path:
    """The file with the ids: `embeddings.ids.jsonl` beside `embeddings.safetensors`."""
    return Path(path).with_suffix(".ids.jsonl")


def about_path(path: str | Path) -> Path:
    """The file with the facts of a .npy file."""
    return Path(path).with_suffix(".about.json")


def beside(path: str | Path) -> list[Path]:
    """The files that one of embeddings needs beside it: a .parquet holds ids and facts, a .safetensors the facts."""
    suffix = Path(path).suffix
    return [*([ids_path(path)] if suffix != ".parquet" else []), *([about_path(path)] if suffix == ".npy" else [])]


def files_of(path: str | Path) -> list[Path]:
    """The files of an output that are there, in order: `x.parquet`, or `x-00000-of-00002.parquet` and so on."""
    path = Path(path)
    if path.is_file():
        return [path]
    parts = re.compile(re.escape(path.stem) + _SHARD + re.escape(path.suffix))
    found = (file for file in path.parent.glob("*") if parts.fullmatch(file.name))
    return sorted(found, key=lambda file: (len(file.name), file.name))  # 100000 stands behind 99999


def is_file_of(file: str | Path, path: str | Path) -> bool:
    """Whether a file has a name that a file of an output gets: its own, a shard's, or that of ids or facts."""
    file, path = Path(file).resolve(), Path(path).resolve()
    suffixes = (path.suffix, *(one.name.removeprefix(path.stem) for one in beside(path)))
    names = rf"{re.escape(path.stem)}({_SHARD})?({'|'.join(map(re.escape, suffixes))})"
    return file.parent == path.parent and re.fullmatch(names, file.name) is not None


def load_embeddings(path: str | Path) -> tuple[torch.Tensor, list[str]]:
    """(texts, width) embeddings and the ids of the texts, as `lookback encode` wrote them; see `load_stored`."""
    stored = load_stored(path)
    return cast(torch.Tensor, stored.embeddings), list(stored.ids)


def load_stored(path: str | Path) -> Stored:
    """All that `lookback encode --output path` wrote, in one file or several.

    Raises ValueError for a file that is missing or holds no embeddings, where one of several is missing or of another
    run, and where the file of ids is missing or has another number of lines.
    """
    files = complete_files(path)
    parts = [_load(file) for file in files]
    if any(part.about != parts[0].about for part in parts):
        raise _incomplete(path, files)
    if len(parts) == 1:
        return parts[0]
    texts = None if parts[0].texts is None else [text for part in parts for text in part.texts or ()]
    embeddings = torch.cat([cast(torch.Tensor, part.embeddings) for part in parts])
    return Stored(embeddings, [one for part in parts for one in part.ids], texts, parts[0].about)


def complete_files(path: str | Path) -> list[Path]:
    """The files of an output; ValueError where there is none, where it is none, and where some are missing."""
    typed("path", path, str | Path)
    files = files_of(path)
    if not files:
        raise ValueError(f"There is no file {str(path)!r}: give {_WHICH}.")
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"{str(path)!r} must end in {', '.join(SUFFIXES)}: give {_WHICH}.")
    if files != [Path(path)] and len(files) != int(files[0].stem.rpartition("-of-")[2]):
        raise _incomplete(path, files)
    return files


def _incomplete(path: str | Path, files: list[Path]) -> ValueError:
    expected = int(files[0].stem.rpartition("-of-")[2]) if files != [Path(path)] else 1
    return ValueError(
        f"{str(path)!r} are {len(files)} of {expected} files of one run: put the others there, or encode anew."
    )


def _load(path: Path) -> Stored:
    readers = {".safetensors": _read_safetensors, ".parquet": _read_parquet, ".npy": _read_npy}
    try:
        stored = readers[path.suffix](path)
        embeddings = cast(torch.Tensor, stored.embeddings)
        if embeddings.dtype == torch.int8:
            if embeddings.ndim != 2 or stored.about.get("precision") not in ("int8", "binary"):
                raise ValueError("int8 numbers of which nothing says what they are")
        else:
            check_embeddings(embeddings, len(embeddings))
        digest = stored.about.pop(IDS_DIGEST, None)
    except (SafetensorError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, error) from error
    if path.suffix == ".parquet":
        return stored
    return stored._replace(ids=read_ids(path, len(stored.embeddings), digest))


def unreadable(path: Path, error: Exception) -> ValueError:
    """What is said of a file that something else wrote, or that is damaged."""
    return ValueError(f"{str(path)!r} holds no embeddings that `lookback encode` wrote ({error}): encode anew.")


def _read_safetensors(path: Path) -> Stored:
    with safe_open(path, "pt") as file:
        return Stored(file.get_tensor("embeddings"), [], None, file.metadata() or {})


def _read_npy(path: Path) -> Stored:
    return Stored(torch.from_numpy(np.load(path)), [], None, read_about(path))


def read_about(path: Path) -> dict[str, str]:
    """The facts of a .npy file."""
    about = about_path(path)
    return json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}


def _read_parquet(path: Path) -> Stored:
    file = pq.ParquetFile(path)
    names = check_columns(file)
    table = file.read([name for name in ("id", "text", "embedding") if name in names])
    texts = table.column("text").to_pylist() if "text" in names else None
    facts = json.loads((table.schema.metadata or {}).get(ABOUT.encode(), b"{}"))
    return Stored(numbers_of(table), [str(one) for one in table.column("id").to_pylist()], texts, facts)


def check_columns(file: pq.ParquetFile) -> set[str]:
    """The columns; ValueError where one is missing."""
    names = set(file.schema_arrow.names)
    if not {"id", "embedding"} <= names:
        raise ValueError(f"the columns are {sorted(names)}, and 'id' and 'embedding' are needed")
    return names


def numbers_of(table: pa.Table, width: int | None = None) -> torch.Tensor:
    """(rows, width) of the column `embedding`; ValueError for rows of several lengths, or of another than `width`."""
    column = table.column("embedding")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()  # None of a row that is null
    expected = width if width is not None or not lengths else lengths[0]
    if any(one is None or one != expected for one in lengths):
        found = ", ".join("no" if one is None else str(one) for one in dict.fromkeys([expected, *lengths]))
        raise ValueError(f"rows of 'embedding' have {found} numbers, and all must have as many")
    flat = [np.asarray(chunk.flatten()) for chunk in column.chunks]
    return torch.from_numpy(np.concatenate(flat or [np.zeros(0, dtype=np.float32)])).reshape(len(table), -1)


def read_ids(path: Path, count: int, digest: str | None = None) -> list[str]:
    """The ids of `count` embeddings, from the file beside them; ValueError where it is missing or has others.

    Args:
        digest: of the file that was written with the embeddings; None where they do not say it, as of former versions.
    """
    if not ids_path(path).is_file():
        raise ValueError(f"{str(path)!r} has no ids: {ids_path(path)} is missing: put it there, or encode anew.")
    with ids_path(path).open(encoding="utf-8") as lines:
        try:
            ids = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{ids_path(path)} must hold an id a line, as JSON ({error}): encode anew.") from error
    if len(ids) != count:
        raise ValueError(
            f"{ids_path(path)} has {len(ids)} ids for {count} embeddings, and both must be of one run: encode anew."
        )
    if digest is not None and digest_of(ids_path(path)) != digest:
        raise ValueError(
            f"{ids_path(path)} holds other ids than were written with {str(path)!r}, and both must be of one run: put "
            "that file there, or encode anew."
        )
    return ids


def digest_of(file: Path) -> str:
    """The sha256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
