"""Embeddings in fewer bits, the same numbers as sentence-transformers' `quantize_embeddings` gives.

`int8`: the range of each of the d numbers, from its least to its largest value among the embeddings that calibrate, is
cut into 255 steps. `binary`: the signs, eight to a byte, less 128. A float query scores both without being quantised.
"""

from collections.abc import Iterable

import numpy as np
import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8, "binary": torch.int8}
PRECISIONS = tuple(DTYPES)


def stored_width(width: int, precision: str) -> int:
    """Numbers of the file for an embedding of `width`: a byte holds eight signs."""
    return -(-width // 8) if precision == "binary" else width


def ranges_of(blocks: Iterable[torch.Tensor]) -> torch.Tensor:
    """(2, d) float32: the least and the largest value of each number among all rows of the blocks, (m, d) each.

    Raises ValueError for less than two rows, which have no range.
    """
    low = high = None
    rows = 0
    for block in blocks:
        least, largest = block.amin(dim=0), block.amax(dim=0)
        low = least if low is None else torch.minimum(low, least)
        high = largest if high is None else torch.maximum(high, largest)
        rows += len(block)
    if low is None or high is None or rows < 2:
        raise ValueError(
            f"precision='int8' needs two texts or more to know their range, and has {rows}: take float16."
        )
    return torch.stack([low, high]).float()


def quantize(embeddings: torch.Tensor, precision: str, ranges: torch.Tensor | None = None) -> torch.Tensor:
    """(m, d) float32 -> (m, d) of `precision`, (m, d / 8) for binary; on the CPU.

    Args:
        ranges: (2, d), for int8. What lies outside gets its nearest end.

    >>> quantize(torch.tensor([[0.0, 255.0], [100.5, 3.0]]), "int8", torch.tensor([[0.0, 0], [255, 255]])).tolist()
    [[-128, 127], [-28, -125]]
    >>> quantize(torch.tensor([[0.5, -1.0, 0.1, 0, 0, 0, 0, 1]]), "binary").tolist()  # 0b10100001 - 128
    [[33]]
    """
    if precision == "binary":
        return torch.from_numpy((np.packbits(embeddings.numpy() > 0, axis=-1) - 128).astype(np.int8))
    if precision != "int8":
        return embeddings.to(DTYPES[precision])
    if ranges is None:
        raise ValueError("ranges=None must be the ranges of the embeddings for int8: give `ranges_of` them.")
    starts, steps = starts_and_steps(ranges)
    return (((embeddings - starts) / steps).floor().clamp(0, 255) - 128).to(torch.int8)


def starts_and_steps(ranges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(d,) each: where the first step of each number begins, and how wide a step is."""
    steps = (ranges[1] - ranges[0]) / 255
    return ranges[0], torch.where(steps == 0, 1.0, steps)


def centres_and_steps(ranges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(d,) each: what code 0 stands for, the middle of its step, and how much more each further code does.

    A number that is the same in all texts is that number, whatever its code.

    >>> centres_and_steps(torch.tensor([[0.0, 3.0], [255.0, 3.0]]))
    (tensor([128.5000,   3.0000]), tensor([1., 0.]))
    """
    starts, steps = starts_and_steps(ranges)
    wide = ranges[1] > ranges[0]
    return torch.where(wide, starts + 128.5 * steps, starts), torch.where(wide, steps, 0.0)


def signs(codes: torch.Tensor, width: int) -> torch.Tensor:
    """(m, width) float32 of 1 and -1 from (m, width / 8) binary codes.

    >>> signs(torch.tensor([[33]], dtype=torch.int8), 8).tolist()
    [[1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 1.0]]
    """
    bits = np.unpackbits(unsigned(codes), axis=-1, count=width)
    return torch.from_numpy(bits).float().mul_(2).sub_(1)


def unsigned(codes: torch.Tensor) -> np.ndarray:
    """The bytes of binary codes as 0 to 255, which faiss calls a binary vector."""
    return (codes.numpy().astype(np.int16) + 128).astype(np.uint8)
