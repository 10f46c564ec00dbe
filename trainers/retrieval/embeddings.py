"""Embeddings of many passages, saved as they are made, so that none is made twice."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from tqdm.auto import tqdm

from modeling_biencoder import BiEncoderModel

BATCHES_A_FILE = 64


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
        """Encodes this process's share of what is missing."""
        missing = [part for part in range(len(self.parts)) if not self._path(part).exists()]
        for part in tqdm(missing[process::processes], desc="Encoding", unit="file", disable=process > 0):
            texts = self.texts[self.parts[part].start : self.parts[part].stop]
            embeddings = model.encode(
                texts, role, task, batch_size=self.batch_size, truncate_dim=truncate_dim, show_progress=False
            )
            _write(self._path(part), save({"embeddings": embeddings}))

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


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
