"""Embeddings in a safetensors file, written block by block, and the ids of their texts in a file beside it."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file

DTYPES = {"float32": ("F32", torch.float32), "float16": ("F16", torch.float16)}


def ids_path(path: str | Path) -> Path:
    """The file with the ids: `embeddings.ids.jsonl` beside `embeddings.safetensors`."""
    return Path(path).with_suffix(".ids.jsonl")


def write_embeddings(
    path: str | Path,
    blocks: Iterable[torch.Tensor],
    shape: tuple[int, int],
    ids: Iterable[str],
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes the tensor `embeddings` of `shape`, and the ids, one a line as JSON; there as a whole or not at all.

    Args:
        blocks: (m, width) float32 each, in order, together (texts, width) = `shape`; one at a time is in memory.
        dtype: "float32" or "float16".
        metadata: texts, for the file's header.

    Raises ValueError for blocks of another number of rows or another width.
    """
    path, (code, kind) = Path(path), DTYPES[dtype]
    # safetensors' own writer takes whole tensors. The file is: length of the header, header as JSON, numbers.
    size = shape[0] * shape[1] * kind.itemsize
    entry = {"dtype": code, "shape": list(shape), "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": metadata or {}, "embeddings": entry}).encode()
    header += b" " * (-len(header) % 8)
    temporary, written = path.with_name(path.name + ".tmp"), 0
    with temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for block in blocks:
            if block.shape[1] != shape[1]:
                raise ValueError(f"A block has {block.shape[1]} numbers a row; the file is to have {shape[1]}.")
            written += file.write(block.to(kind).contiguous().numpy().tobytes())
        if written != size:
            raise ValueError(f"The blocks have {written} bytes; {shape} of {dtype} are {size}.")
        file.flush()
        os.fsync(file.fileno())
    _write_ids(ids_path(path), ids)
    os.replace(temporary, path)


def _write_ids(path: Path, ids: Iterable[str]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in ids)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_embeddings(path: str | Path) -> tuple[torch.Tensor, list[str]]:
    """(texts, width) embeddings and the ids of the texts, as `lookback encode` wrote them.

    Raises ValueError where the file of ids is missing or has another number of lines.
    """
    embeddings = load_file(path)["embeddings"]
    if not ids_path(path).is_file():
        raise ValueError(f"{str(path)!r} has no ids: {ids_path(path)} is missing.")
    with ids_path(path).open(encoding="utf-8") as lines:
        ids = [json.loads(line) for line in lines]
    if len(ids) != len(embeddings):
        raise ValueError(f"{ids_path(path)} has {len(ids)} ids for {len(embeddings)} embeddings.")
    return embeddings, ids
