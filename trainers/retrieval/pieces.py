"""Embeddings that lie in several files, as one matrix of which no more than a file or a block is in memory."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch


class Pieces:
    """(N, d) numbers, as far as a search asks for them: the part of a tensor's methods that it uses.

    Args:
        sizes: rows of each piece.
        width: d.
        load: number of a piece -> (rows, d). It is called anew each time, and what it gives is let go after use.
    """

    ndim = 2
    device = torch.device("cpu")

    def __init__(self, sizes: Sequence[int], width: int, load: Callable[[int], torch.Tensor]):
        self.starts, self.load = [0, *accumulate(sizes)], load
        self.shape = torch.Size((self.starts[-1], width))

    def __len__(self) -> int:
        return self.shape[0]

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """The rows in blocks of `size`, the last one excepted, as `torch.Tensor.split` gives them.

        >>> parts = torch.arange(6)[:, None].split([2, 1, 3])
        >>> pieces = Pieces([2, 1, 3], 1, parts.__getitem__)
        >>> [block.flatten().tolist() for block in pieces.split(4)]
        [[0, 1, 2, 3], [4, 5]]
        """
        kept: list[torch.Tensor] = []
        room = size
        for number in range(len(self.starts) - 1):
            rest = self.load(number)
            while len(rest):
                kept.append(rest[:room])
                rest, room = rest[room:], room - len(kept[-1])
                if not room:
                    yield kept[0] if len(kept) == 1 else torch.cat(kept)
                    kept, room = [], size
        if kept:
            yield torch.cat(kept)

    def __getitem__(self, numbers: torch.Tensor) -> torch.Tensor:
        """Rows by number: (..., d) for (...), each piece loaded once."""
        flat, order = numbers.flatten().sort()
        found: list[torch.Tensor] = []
        bounds = torch.searchsorted(flat, torch.tensor(self.starts)).tolist()
        for number, (start, end) in enumerate(pairwise(bounds)):
            if start < end:
                found.append(self.load(number)[flat[start:end] - self.starts[number]])
        rows = torch.cat(found) if found else torch.empty(0, self.shape[1])
        return rows[order.argsort()].view(*numbers.shape, self.shape[1])

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Pieces":
        """The same with `change` of each piece, row by row."""
        sizes = [end - start for start, end in pairwise(self.starts)]
        return Pieces(sizes, self.shape[1], lambda number: change(self.load(number)))


class Column(Sequence[str]):
    """Texts that belong to the rows of pieces; those of one piece are in memory.

    Args:
        sizes: how many each piece has.
        load: number of a piece -> its texts.
    """

    def __init__(self, sizes: Sequence[int], load: Callable[[int], list[str]]):
        self.starts, self.load = [0, *accumulate(sizes)], load
        self._last: tuple[int, list[str]] = (-1, [])

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(len(self))[number]]
        number = range(len(self))[number]
        piece = bisect_right(self.starts, number) - 1
        return self._of(piece)[number - self.starts[piece]]

    def __iter__(self) -> Iterator[str]:
        for piece in range(len(self.starts) - 1):
            yield from self._of(piece)

    def _of(self, piece: int) -> list[str]:
        if self._last[0] != piece:
            self._last = piece, self.load(piece)
        return self._last[1]
