"""Memory for the states of chunks, slot by slot: on a device, or in a memory-mapped file that has no name."""

import mmap
import os
import tempfile
from typing import Any, NamedTuple

import torch

from .moving_srlm import StateGroup

ALIGNMENT = 64
SLAB_BYTES = 2**26  # of memory that is taken at once


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
    """Slots of `slot_bytes` each, taken some at a time; `slot(number)` is its memory, a tensor of bytes."""

    def __init__(self, slot_bytes: int, device: torch.device):
        self.slot_bytes, self.device = slot_bytes, device
        self.per_slab = max(SLAB_BYTES // slot_bytes, 1)
        self.slabs: list[torch.Tensor] = []

    def slot(self, number: int) -> torch.Tensor:
        """(slot_bytes,) uint8; memory is taken when a slot is first asked for."""
        slab, place = divmod(number, self.per_slab)
        while slab >= len(self.slabs):
            self.slabs.append(self._take())
        return self.slabs[slab][place * self.slot_bytes : (place + 1) * self.slot_bytes]

    def let_go(self, number: int) -> None:
        """The slot is not needed for now."""

    def _take(self) -> torch.Tensor:
        return torch.empty(self.per_slab * self.slot_bytes, dtype=torch.uint8, device=self.device)


class FileSlabs(Slabs):
    """Slots in a file of the folder for temporary files (`TMPDIR`), which is gone with the process.

    The disk is asked for a slab before it is mapped, so that a full one is an error and not a crash.
    """

    def __init__(self, slot_bytes: int):
        super().__init__(
            -(-slot_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY, torch.device("cpu")
        )
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
        slab, place = divmod(number, self.per_slab)
        if hasattr(mmap, "MADV_DONTNEED"):
            self.maps[slab].madvise(mmap.MADV_DONTNEED, place * self.slot_bytes, self.slot_bytes)

    def _take(self) -> torch.Tensor:
        size = self.per_slab * self.slot_bytes
        start = len(self.maps) * size
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.file.fileno(), start, size)
            else:
                self.file.seek(start)
                for _ in range(self.per_slab):
                    self.file.write(bytes(self.slot_bytes))
                self.file.flush()
            self.maps.append(mmap.mmap(self.file.fileno(), size, offset=start))
        except OSError as error:
            raise OSError(
                error.errno,
                f"the store of states has {start} bytes in {tempfile.gettempdir()!r}, and no room for {size} "
                "more: set TMPDIR to a folder with room, or give a store_limit",
            ) from error
        return torch.frombuffer(self.maps[-1], dtype=torch.uint8)
