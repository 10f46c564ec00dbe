"""Embeddings of a corpus in shards, each a file of its own that whoever claims it makes: see `jobs.shards`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from ..data.texts import IdentifiedTexts
from ..jobs.shards import Shards
from .embeddings import parts_of
from .mapped import is_whole
from .quantization import ranges_of
from .storing import names_of, write_embeddings


class ShardedEmbeddings(NamedTuple):
    """What is to be written.

    Args:
        output: x.parquet stands for the files x-00000-of-00008.parquet and so on.
        embed: texts -> (texts, width) float32. It gets 64 batches at once, as in a run without shards, and so the
            embeddings are the same.
        about: facts that are kept with the numbers.
    """

    output: Path
    texts: IdentifiedTexts
    embed: Callable[[list[str]], torch.Tensor]
    batch_size: int
    width: int
    precision: str
    about: dict[str, str]

    def write(self, shards: Shards, show_progress: bool = False) -> None:
        """Returns when the files of all shards are there."""
        work = _Work(self, shards)
        description = "Encoding" if show_progress else None
        shards.look(work.files, work.is_whole)
        if self.precision == "int8":  # the range of each number is that of all texts
            shards.look(work.floats, work.has_floats)
            shards.share(work.floats, work.write_floats, description)
            shards.share(work.files, work.write_int8)
        else:
            shards.share(work.files, work.write_directly, description)


def check_shards(num_shards: int, count: int, batch_size: int) -> None:
    """ValueError for more shards than there are parts of so many texts."""
    if num_shards > (most := len(parts_of(count, batch_size))):
        raise ValueError(
            f"--num_shards={num_shards} must be at most {most} for {count:,} texts, as a shard has 64 batches "
            f"(--batch_size={batch_size}) or more: lower it."
        )


class _Work:
    """The files of each shard, and how they are made."""

    def __init__(self, asked: ShardedEmbeddings, shards: Shards):
        self.asked, self.shards = asked, shards
        parts = parts_of(len(asked.texts), asked.batch_size)
        self.parts = [parts[one.start : one.stop] for one in shards.ranges(len(parts))]
        self.rows = [range(own[0].start, own[-1].stop) for own in self.parts]
        self.files = names_of(asked.output, shards.num_shards)
        self.floats = [shards.folder / f"floats-{number:05}.bin" for number in range(shards.num_shards)]

    def is_whole(self, shard: int) -> bool:
        """Whether the shard's file, which is there, is what was written."""
        facts = {**self.asked.about, "precision": self.asked.precision}
        return is_whole(self.files[shard], len(self.rows[shard]), facts)

    def has_floats(self, shard: int) -> bool:
        """The same of the embeddings that int8 is made of."""
        size = len(self.rows[shard]) * self.asked.width * torch.float32.itemsize
        return self.floats[shard].stat().st_size == size and _ranges_path(self.floats[shard]).exists()

    def _blocks(self, shard: int) -> Iterator[torch.Tensor]:
        return (self.asked.embed(self.asked.texts[part.start : part.stop]) for part in self.parts[shard])

    def write_directly(self, shard: int) -> None:
        self._write(shard, lambda: self._blocks(shard))

    def write_floats(self, shard: int) -> None:
        """The embeddings as they are, row by row, and the ranges of their numbers beside them."""
        ranges = []
        with self.shards.whole(self.floats[shard]) as new:
            with new.open("wb") as file:
                for block in self._blocks(shard):
                    file.write(block.numpy().tobytes())
                    ranges.append(torch.stack([block.amin(dim=0), block.amax(dim=0)]))
            text = json.dumps(torch.cat(ranges).tolist())
            _ranges_path(new).write_text(text, encoding="utf-8")

    def write_int8(self, shard: int) -> None:
        ranges = (json.loads(_ranges_path(path).read_text(encoding="utf-8")) for path in self.floats)
        of_all = ranges_of(torch.tensor(each) for each in ranges)
        rows, width = len(self.rows[shard]), self.asked.width
        numbers = torch.from_file(str(self.floats[shard]), size=rows * width).view(rows, width)  # mapped, not read
        self._write(shard, lambda: numbers.split(len(self.parts[shard][0])), of_all)

    def _write(
        self, shard: int, blocks: Callable[[], Iterator[torch.Tensor]], ranges: torch.Tensor | None = None
    ) -> None:
        asked, rows = self.asked, self.rows[shard]
        ids = (one for one, _ in asked.texts.pairs(rows))
        texts = (text for _, text in asked.texts.pairs(rows)) if asked.output.suffix == ".parquet" else None
        with self.shards.whole(self.files[shard]) as new:
            write_embeddings(
                new, blocks, (len(rows), asked.width), ids, texts, asked.precision, asked.about, ranges=ranges
            )


def _ranges_path(floats: Path) -> Path:
    return floats.with_suffix(".json")
