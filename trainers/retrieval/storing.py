"""Embeddings in the files that other tools read: .safetensors, .parquet and .npy, one or several of each.

What the numbers are (precision, width, ranges, model) stands in the file itself, for .npy in `.about.json` beside it;
the ids stand in .parquet, and in `.ids.jsonl` beside the others, by whose digest they are known to be those.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hub_cards.travelling.checks import check_choice
from hub_cards.whole_files import written_whole

from .quantization import DTYPES, PRECISIONS, quantize, ranges_of, stored_width
from .stored import ABOUT, IDS_DIGEST, about_path, beside, digest_of, files_of, ids_path

_CODES = {torch.float32: "F32", torch.float16: "F16", torch.int8: "I8"}  # of a .safetensors file's header
_ARROW = {torch.float32: pa.float32(), torch.float16: pa.float16(), torch.int8: pa.int8()}


class Numbers(NamedTuple):
    """The numbers of one file, to be written: `blocks` give its rows."""

    shape: tuple[int, int]
    dtype: torch.dtype
    blocks: Iterable[torch.Tensor]
    about: dict[str, str]


def write_embeddings(
    path: str | Path,
    blocks: Callable[[], Iterable[torch.Tensor]],
    shape: tuple[int, int],
    ids: Iterable[str],
    texts: Iterable[str] | None = None,
    precision: str = "float32",
    about: dict[str, str] | None = None,
    shard_size: int | None = None,
    ranges: torch.Tensor | None = None,
) -> list[Path]:
    """Writes embeddings and ids, and returns the files with embeddings; they are there as a whole or not at all.

    Former ones stay until all is written; those with ids beside them go before the first new file takes its place.

    Args:
        path: it ends in .safetensors (tensor `embeddings`), .parquet (columns `id`, `text` where given, and
            `embedding`) or .npy.
        blocks: called for (m, width) float32 each, in order, together (N, width) = `shape`; one at a time is in
            memory. Called twice for int8, whose ranges are those of all of them.
        precision: float32, float16, int8 or binary, see `quantization`.
        about: facts that are kept with the numbers, beside `precision`, `width` and, of int8, `ranges` (as JSON).
        shard_size: texts of a file, where there are to be several.
        ranges: (2, width) of int8, where there are more embeddings than these.

    Raises ValueError for blocks of another number of rows or another width, and for numbers that are not finite in
    float16.
    """
    path, (count, width) = Path(path), shape
    check_choice("precision", precision, PRECISIONS)
    facts = {**(about or {}), "precision": precision, "width": str(width)}
    if precision == "int8" and ranges is None:
        ranges = ranges_of(blocks())
    if ranges is not None:
        facts["ranges"] = json.dumps(ranges.tolist())
    rows = _Rows(quantize(_checked(block, width, precision), precision, ranges) for block in blocks())
    total = None if shard_size is None else max(-(-count // shard_size), 1)
    names, ids, texts = names_of(path, total), iter(ids), None if texts is None else iter(texts)
    former = files_of(path)
    with ExitStack() as stack:  # all are written, then all take their places
        for number, name in enumerate(names):
            size = count if shard_size is None else min(shard_size, count - number * shard_size)
            numbers = Numbers((size, stored_width(width, precision)), DTYPES[precision], rows.take(size), facts)
            _write(stack, name, numbers, islice(ids, size), None if texts is None else islice(texts, size))
        rows.check_all(count)
        for file in former:
            if beside(file):  # a kill between the two must not leave these numbers with the new ids and facts
                file.unlink()
    for file in former:
        if file not in names:
            for one in (file, *beside(file)):
                one.unlink(missing_ok=True)
    return names


def names_of(path: Path, total: int | None) -> list[Path]:
    """The files of an output in `total` shards; None is the one file."""
    if total is None:
        return [path]
    return [path.with_name(f"{path.stem}-{number:05}-of-{total:05}{path.suffix}") for number in range(total)]


class _Rows:
    """A stream of blocks, cut anew."""

    def __init__(self, blocks: Iterable[torch.Tensor]):
        self.blocks, self.rest, self.count = iter(blocks), torch.empty(0), 0

    def take(self, count: int) -> Iterator[torch.Tensor]:
        """The next `count` rows, in blocks; ValueError where there are less."""
        while count:
            if not len(self.rest) and (block := next(self.blocks, None)) is not None:
                self.rest = block
            if not len(self.rest):
                raise ValueError(
                    f"The blocks have {self.count} rows, and the file {self.count + count}: give them all."
                )
            now, self.rest = self.rest[:count], self.rest[count:]
            count, self.count = count - len(now), self.count + len(now)
            yield now.contiguous()

    def check_all(self, count: int) -> None:
        """ValueError where rows are left."""
        if left := len(self.rest) + sum(len(block) for block in self.blocks):
            raise ValueError(f"The blocks have {count + left} rows, and the file {count}: give as many.")


def _checked(block: torch.Tensor, width: int, precision: str) -> torch.Tensor:
    if block.shape[1] != width:
        raise ValueError(f"A block has {block.shape[1]} numbers a row, and the file {width}: give as many.")
    kept = block.half() if precision == "float16" else block
    if not kept.isfinite().all():
        raise ValueError(
            f"An embedding has a number of {block.abs().max():g}, which {precision} does not hold: write finite "
            "numbers, as float32."
        )
    return block


def _write(stack: ExitStack, path: Path, numbers: Numbers, ids: Iterator[str], texts: Iterator[str] | None) -> None:
    new = stack.enter_context(written_whole(path))
    if path.suffix == ".parquet":
        _write_parquet(new, numbers, ids, texts)
        return
    new_ids = stack.enter_context(written_whole(ids_path(path)))
    with new_ids.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in ids)
    numbers = numbers._replace(about={**numbers.about, IDS_DIGEST: digest_of(new_ids)})
    with new.open("wb") as file:
        _header(file, path.suffix, numbers)
        for block in numbers.blocks:
            file.write(block.numpy().tobytes())
    if path.suffix == ".npy":
        facts = json.dumps(numbers.about, ensure_ascii=False, indent=1) + "\n"
        stack.enter_context(written_whole(about_path(path))).write_text(facts, encoding="utf-8")


def _header(file: BinaryIO, suffix: str, numbers: Numbers) -> None:
    """What stands before the numbers, which the libraries write of whole arrays alone.

    A memory map would be one, but its file and the result take the place of the embeddings twice on the disk.
    """
    if suffix == ".npy":
        kind = np.dtype(str(numbers.dtype).removeprefix("torch."))
        described = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": numbers.shape}
        np.lib.format.write_array_header_1_0(file, described)
        return
    rows, width = numbers.shape
    entry = {
        "dtype": _CODES[numbers.dtype],
        "shape": [rows, width],
        "data_offsets": [0, rows * width * numbers.dtype.itemsize],
    }
    about = {"__metadata__": numbers.about} if numbers.about else {}
    header = json.dumps({**about, "embeddings": entry}, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)


def _write_parquet(path: Path, numbers: Numbers, ids: Iterator[str], texts: Iterator[str] | None) -> None:
    columns = [("id", pa.string()), *([] if texts is None else [("text", pa.string())])]
    kind = pa.list_(_ARROW[numbers.dtype], numbers.shape[1])
    schema = pa.schema([*columns, ("embedding", kind)], {ABOUT: json.dumps(numbers.about, ensure_ascii=False)})
    with pq.ParquetWriter(path, schema) as writer:
        for block in numbers.blocks:
            cells = [pa.array(islice(ids, len(block)), pa.string())]
            cells += [] if texts is None else [pa.array(islice(texts, len(block)), pa.string())]
            flat = pa.array(block.numpy().reshape(-1))
            cells.append(pa.FixedSizeListArray.from_arrays(flat, numbers.shape[1]))
            writer.write_table(pa.Table.from_arrays(cells, schema=schema))
