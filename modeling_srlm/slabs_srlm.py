"""Memory for the states of chunks, slot by slot: on a device, or in a memory-mapped file that has no name."""

import mmap
import os
import tempfile
from bisect import bisect_right
from typing import Any, NamedTuple

import torch

from .moving_srlm import StateGroup

ALIGNMENT = 64
SLAB_BYTES = 2**26  # of memory that is taken at once by a long text
_DOUBLINGS = 6  # until a slab is so large: many short texts take little


class Part(NamedTuple):
    """One array of a slot: `shape` numbers of `dtype`, `start` bytes from the slot's beginning."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int

    @property
    def end(self) -> int:
        size = torch.empty((), dtype=self.dtype).element_size()
        for length in self.shape:
            size *= length
        return self.start + size


def slot_parts(groups: list[StateGroup], chunk_size: int, dtype: torch.dtype | None) -> tuple[list[list[Part]], int]:
    """Of each group the arrays of a slot (keys, values, for int8 the scales of both), and the bytes of a slot."""
    found: list[list[Part]] = []
    start = 0
    for group in groups:
        kept = group.dtype if dtype is None else dtype
        sizes = [(size, chunk_size, kept) for size in (group.key_size, group.value_size)]
        if kept == torch.int8:
            sizes += [(size, 1, torch.float32) for size in (group.key_size, group.value_size)]
        parts = []
        for size, tokens, kind in sizes:
            parts.append(Part((len(group.layers), group.heads, tokens, size), kind, start))
            start = -(-parts[-1].end // ALIGNMENT) * ALIGNMENT
        found.append(parts)
    return found, start


class Slabs:
    """Slots of `slot_bytes` each, at most `limit` of them; `slot(number)` is its memory, a tensor of bytes.

    Memory is taken slab by slab, each about twice as large as the one before, up to `SLAB_BYTES`.
    """

    def __init__(self, slot_bytes: int, device: torch.device, limit: int | None = None):
        self.slot_bytes, self.device, self.limit = slot_bytes, device, limit
        self.slabs: list[torch.Tensor] = []
        self.firsts = [0]  # each slab's first slot, and that of the slab to come

    def slot(self, number: int) -> torch.Tensor:
        """(slot_bytes,) uint8; memory is taken when a slot is first asked for."""
        while number >= self.firsts[-1]:
            count = self._next_count()
            self.slabs.append(self._take(count))
            self.firsts.append(self.firsts[-1] + count)
        slab, start = self._place(number)
        return self.slabs[slab][start : start + self.slot_bytes]

    def let_go(self, number: int) -> None:
        """The slot is not needed for now."""

    def _place(self, number: int) -> tuple[int, int]:
        """The slab of a slot, and the byte in it that the slot begins with."""
        slab = bisect_right(self.firsts, number) - 1
        return slab, (number - self.firsts[slab]) * self.slot_bytes

    def _next_count(self) -> int:
        count = max((SLAB_BYTES >> max(_DOUBLINGS - len(self.slabs), 0)) // self.slot_bytes, 1)
        return count if self.limit is None else min(count, self.limit - self.firsts[-1])

    def _take(self, count: int) -> torch.Tensor:
        return torch.empty(count * self.slot_bytes, dtype=torch.uint8, device=self.device)


def whole_pages(slot_bytes: int) -> int:
    """The bytes that a slot of a file takes, which is mapped page by page."""
    return -(-slot_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


class FileSlabs(Slabs):
    """Slots in a file of the folder for temporary files (`TMPDIR`), which is gone with the process.

    The disk is asked for a slab before it is mapped, so that a full one is an error and not a crash.
    """

    def __init__(self, slot_bytes: int, limit: int | None = None):
        super().__init__(whole_pages(slot_bytes), torch.device("cpu"), limit)
        try:
            self.file = tempfile.TemporaryFile(prefix="lookback-states-")  # noqa: SIM115  (as long as the store)
        except OSError as error:
            raise OSError(
                f"store_place='disk' cannot write to a folder for temporary files ({error}): set TMPDIR to one that "
                "exists and has room, or choose another store_place."
            ) from error
        self.maps: list[Any] = []

    def let_go(self, number: int) -> None:
        """Gives back the memory that reading or writing the slot has taken; the file keeps what it holds."""
        slab, start = self._place(number)
        if hasattr(mmap, "MADV_DONTNEED"):
            self.maps[slab].madvise(mmap.MADV_DONTNEED, start, self.slot_bytes)

    def _take(self, count: int) -> torch.Tensor:
        size, start = count * self.slot_bytes, self.firsts[-1] * self.slot_bytes
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.file.fileno(), start, size)
            else:
                self.file.seek(start)
                for _ in range(count):
                    self.file.write(bytes(self.slot_bytes))
                self.file.flush()
            self.maps.append(mmap.mmap(self.file.fileno(), size, offset=start))
        except OSError as error:
            allowed = "" if self.limit is None else f" lower than the {self.limit * self.slot_bytes} bytes of this one"
            raise OSError(
                error.errno,
                f"the store of states has {start} bytes in {tempfile.gettempdir()!r}, and no room for {size} "
                f"more: set TMPDIR to a folder with room, or give a store_limit{allowed}",
            ) from error
        return torch.frombuffer(self.maps[-1], dtype=torch.uint8)
