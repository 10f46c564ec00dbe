"""Embeddings of many passages, saved as they are made, so that none is made twice."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from hub_cards.whole_files import written_whole
from modeling_biencoder import BiEncoderModel

from .pieces import Pieces

BATCHES_A_FILE = 64


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


def embed(
    texts: Sequence[str], model: BiEncoderModel, role: str, task: str | None, batch_size: int, truncate_dim: int | None
) -> torch.Tensor:
    """(texts, width) float32 on the CPU, checked."""
    found = model.encode(texts, role, task, batch_size=batch_size, truncate_dim=truncate_dim, show_progress=False)
    return check_embeddings(found, len(texts))


def parts_of(count: int, batch_size: int) -> list[range]:
    """The numbers of `count` texts, cut into 64 batches each: whoever embeds a part, the numbers are the same."""
    step = BATCHES_A_FILE * batch_size
    return [range(start, min(start + step, count)) for start in range(0, count, step)]


class EmbeddingFiles:
    """The embeddings of `texts` in files of a folder, each of 64 batches, and each there as a whole or not at all.

    `fill` is for each of several processes; when all are done, `pieces` are the embeddings.
    """

    def __init__(self, folder: Path, texts: Sequence[str], batch_size: int):
        self.folder, self.texts = folder, texts
        self.batch_size, self.parts = batch_size, parts_of(len(texts), batch_size)

    def path(self, part: int) -> Path:
        """The file of a part."""
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
        missing = [part for part in range(process, len(self.parts), processes) if not self.path(part).exists()]
        for part in tqdm(missing, desc="Encoding", unit="file", disable=process > 0):
            with written_whole(self.path(part)) as new:
                self.write(part, new, model, task, role, truncate_dim)

    def write(
        self,
        part: int,
        path: Path,
        model: BiEncoderModel,
        task: str | None,
        role: str = "passage",
        truncate_dim: int | None = None,
    ) -> None:
        """Encodes one part into a file, which belongs to `path(part)`."""
        texts = self.texts[self.parts[part].start : self.parts[part].stop]
        save_file({"embeddings": embed(texts, model, role, task, self.batch_size, truncate_dim)}, path)

    def blocks(self) -> Iterator[torch.Tensor]:
        """The embeddings, file by file."""
        for part in range(len(self.parts)):
            yield self._load(part)

    def pieces(self, width: int) -> Pieces:
        """(texts, width) float32 on the CPU, as the files have them: mapped, and read when they are asked for."""
        return Pieces([len(part) for part in self.parts], width, self._load)

    def _load(self, part: int) -> torch.Tensor:
        return load_file(self.path(part))["embeddings"]
