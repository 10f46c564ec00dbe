"""Embeddings of many passages: saved as they are made, so that none is made twice, and one file of them all."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from hub_cards.travelling.checks import typed
from hub_cards.whole_files import written_whole
from modeling_biencoder import BiEncoderModel

BATCHES_A_FILE = 64
DTYPES = {"float32": ("F32", torch.float32), "float16": ("F16", torch.float16)}


def check_encoder(model: Any) -> None:
    """TypeError for a model that does not embed texts as a bi-encoder does."""
    if isinstance(model, type) or not callable(getattr(model, "encode", None)) or not hasattr(model, "config"):
        raise TypeError(f"model is a {type(model).__name__} and must be a BiEncoderModel: load or build one.")


def check_embeddings(found: Any, count: int) -> torch.Tensor:
    """What a bi-encoder's `encode` gave for `count` texts, float32 on the CPU, checked.

    Raises TypeError for what is no floating-point matrix, ValueError for another number of rows, no columns, and
    numbers that are not finite.
    """
    rule = f"it must return ({count}, d) finite numbers, an embedding a text: mend the model's encode."
    try:
        embeddings = torch.as_tensor(found).detach()
        if not embeddings.is_floating_point():
            raise TypeError(f"{embeddings.dtype} is no floating point")
        embeddings = embeddings.to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"encode returned a {type(found).__name__} ({error}); {rule}") from error
    if embeddings.ndim != 2 or len(embeddings) != count or not embeddings.shape[1]:
        raise ValueError(f"encode returned shape {tuple(embeddings.shape)}; {rule}")
    if not embeddings.isfinite().all():
        raise ValueError(f"encode returned NaN or infinity; {rule}")
    return embeddings


class EmbeddingFiles:
    """The embeddings of `texts` in files of a folder, each of 64 batches, and each there as a whole or not at all.

    `fill` is for each of several processes; when all are done, `load` gives the embeddings.
    """

    def __init__(self, folder: Path, texts: Sequence[str], batch_size: int):
        self.folder, self.texts = folder, texts
        step = BATCHES_A_FILE * batch_size
        self.batch_size, self.parts = batch_size, [range(i, i + step) for i in range(0, len(texts), step)]

    def _path(self, part: int) -> Path:
        return self.folder / f"embeddings-{part:06}.safetensors"

    def fill(
        self,
        model: BiEncoderModel,
        task: str | None,
        process: int = 0,
        processes: int = 1,
        role: str = "passage",
        truncate_dim: int | None = None,
    ) -> None:
        """Encodes what is missing of this process's share, which does not depend on what the others have done."""
        missing = [part for part in range(process, len(self.parts), processes) if not self._path(part).exists()]
        for part in tqdm(missing, desc="Encoding", unit="file", disable=process > 0):
            texts = self.texts[self.parts[part].start : self.parts[part].stop]
            embeddings = model.encode(
                texts, role, task, batch_size=self.batch_size, truncate_dim=truncate_dim, show_progress=False
            )
            with written_whole(self._path(part)) as new:
                save_file({"embeddings": check_embeddings(embeddings, len(texts))}, new)

    def blocks(self) -> Iterator[torch.Tensor]:
        """The embeddings, file by file."""
        for part in range(len(self.parts)):
            yield load_file(self._path(part))["embeddings"]

    def load(self, width: int) -> torch.Tensor:
        """(texts, width) float32 on the CPU."""
        embeddings = torch.empty(len(self.texts), width)
        for numbers, block in zip(self.parts, self.blocks(), strict=True):
            embeddings[numbers.start : numbers.stop] = block
        return embeddings


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

    Raises ValueError for blocks of another number of rows or another width, and for numbers that are not finite in
    `dtype`.
    """
    path, count = Path(path), 0
    with written_whole(path) as new:
        with new.open("wb") as file:
            file.write(_header(shape, dtype, metadata or {}))
            for block in blocks:
                if block.shape[1] != shape[1]:
                    raise ValueError(
                        f"A block has {block.shape[1]} numbers a row, and the file {shape[1]}: give as many."
                    )
                numbers = block.to(DTYPES[dtype][1])
                if not numbers.isfinite().all():
                    raise ValueError(
                        f"An embedding has a number of {block.abs().max():g}, which {dtype} does not hold: write "
                        "finite numbers, as float32."
                    )
                file.write(numbers.contiguous().numpy().tobytes())
                count += len(block)
        if count != shape[0]:
            raise ValueError(f"The blocks have {count} rows, and the file {shape[0]}: give all of them.")
        with written_whole(ids_path(path)) as new_ids, new_ids.open("w", encoding="utf-8", newline="\n") as lines:
            lines.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in ids)


def _header(shape: tuple[int, int], dtype: str, metadata: dict[str, str]) -> bytes:
    """What stands before the numbers in a safetensors file: the header's length, and the header as JSON.

    The library itself writes whole tensors alone. A memory map would be one, but its file and the result take the
    place of the embeddings twice on the disk.
    """
    code, kind = DTYPES[dtype]
    entry = {"dtype": code, "shape": list(shape), "data_offsets": [0, shape[0] * shape[1] * kind.itemsize]}
    about = {"__metadata__": metadata} if metadata else {}
    header = json.dumps({**about, "embeddings": entry}, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def load_embeddings(path: str | Path) -> tuple[torch.Tensor, list[str]]:
    """(texts, width) embeddings and the ids of the texts, as `lookback encode` wrote them.

    Raises ValueError for a file that is missing or holds no embeddings, and where the file of ids is missing or has
    another number of lines.
    """
    typed("path", path, str | Path)
    if not Path(path).is_file():
        raise ValueError(f"There is no file {str(path)!r}: give the .safetensors file that `lookback encode` wrote.")
    try:
        embeddings = load_file(path)["embeddings"]
        check_embeddings(embeddings, len(embeddings))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} holds no embeddings that `lookback encode` wrote ({error}): encode anew."
        ) from error
    if not ids_path(path).is_file():
        raise ValueError(f"{str(path)!r} has no ids: {ids_path(path)} is missing: put it there, or encode anew.")
    with ids_path(path).open(encoding="utf-8") as lines:
        try:
            ids = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{ids_path(path)} must hold an id a line, as JSON ({error}): encode anew.") from error
    if len(ids) != len(embeddings):
        raise ValueError(
            f"{ids_path(path)} has {len(ids)} ids for {len(embeddings)} embeddings, and both must be of one run: "
            "encode anew."
        )
    return embeddings, ids
