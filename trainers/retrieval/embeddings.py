"""Embeddings of many passages: saved as they are made, so that none is made twice, and one file of them all."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from hub_cards.whole_files import written_whole
from modeling_biencoder import BiEncoderModel

BATCHES_A_FILE = 64
DTYPES = {"float32": ("F32", torch.float32), "float16": ("F16", torch.float16)}


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
                save_file({"embeddings": embeddings}, new)

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

    Raises ValueError where the file of ids is missing or has another number of lines.
    """
    embeddings = load_file(path)["embeddings"]
    if not ids_path(path).is_file():
        raise ValueError(f"{str(path)!r} has no ids: {ids_path(path)} is missing: put it there, or encode anew.")
    with ids_path(path).open(encoding="utf-8") as lines:
        ids = [json.loads(line) for line in lines]
    if len(ids) != len(embeddings):
        raise ValueError(
            f"{ids_path(path)} has {len(ids)} ids for {len(embeddings)} embeddings, and both must be of one run: "
            "encode anew."
        )
    return embeddings, ids
