"""The store of what was read: keys and values of chunks, by number type and place, within a limit."""

import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .limits_srlm import chunk_limit
from .moving_srlm import StateGroup
from .slabs_srlm import FileSlabs, Slabs, slot_parts, whole_pages

# One group's states of a run of tokens: keys and values, (layers, heads, tokens, size) each.
States = tuple[torch.Tensor, torch.Tensor]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def most_chunks(config: Any, groups: list[StateGroup]) -> int | None:
    """Chunks that a store by the settings of the configuration may hold, as `chunk_limit` says."""
    dtype = None if config.store_dtype is None else DTYPES[config.store_dtype]
    size = slot_parts(groups, config.chunk_size, dtype)[1]
    return chunk_limit(config, whole_pages(size) if config.store_place == "disk" else size)


class StoredChunk:
    """The states of one chunk, which was read at positions `base`, `base + 1`, ...; in `slot`, or None when evicted.

    `computed_again`: from its text, after they were evicted. The slot is free again when nothing refers to the chunk
    any more: beams share those of their common past.
    """

    __slots__ = ("__weakref__", "base", "computed_again", "length", "slot", "store")

    def __init__(self, store: "StateStore", base: int, length: int):
        self.store, self.base, self.length, self.computed_again = store, base, length, False
        self.slot: int | None = None

    @property
    def as_read(self) -> bool:
        """Whether the states are there that reading the chunk has left."""
        return self.slot is not None and not self.computed_again

    def let_go(self) -> None:
        """Gives the slot back."""
        if self.slot is not None:
            self.store.release(self.slot)
            self.slot = None

    def __del__(self) -> None:
        self.let_go()


class StateStore:
    """Chunks of at most `chunk_size` tokens; past `limit` of them, if that is set, the least recently used go.

    Args:
        place: "device", "cpu" or "disk".
        dtype: a name of `DTYPES`, None for that of the states. int8 has one scale a head and channel.
    """

    def __init__(
        self, groups: list[StateGroup], chunk_size: int, place: str, dtype: str | None, limit: int | None = None
    ):
        self.groups, self.limit = groups, limit
        self.parts, self.chunk_bytes = slot_parts(groups, chunk_size, None if dtype is None else DTYPES[dtype])
        device = groups[0].device if place == "device" else torch.device("cpu")
        disk = place == "disk"
        self.slabs = FileSlabs(self.chunk_bytes, limit) if disk else Slabs(self.chunk_bytes, device, limit)
        self.used: OrderedDict[int, Any] = OrderedDict()  # slot -> weak reference to its chunk, the oldest first
        self.free: list[int] = []
        self.count = 0  # slots that were ever taken

    def put(self, states: Sequence[States], base: int) -> StoredChunk:
        """Keeps the states of a chunk, of each group, that was read at the positions from `base` on."""
        chunk = StoredChunk(self, base, states[0][0].shape[-2])
        self._keep(chunk, states, base)
        return chunk

    def put_again(self, chunk: StoredChunk, states: Sequence[States], base: int) -> None:
        """Keeps states of a chunk that was evicted and is computed anew."""
        self._keep(chunk, states, base)
        chunk.computed_again = True

    def _keep(self, chunk: StoredChunk, states: Sequence[States], base: int) -> None:
        slot = self._take()
        memory = self.slabs.slot(slot)
        for parts, (keys, values) in zip(self.parts, states, strict=True):
            views = [_view(memory, part) for part in parts]
            for number, tensor in enumerate((keys, values)):
                if views[number].dtype == torch.int8:
                    tensor, scale = quantize(tensor)
                    views[number + 2].copy_(scale)
                views[number][..., : chunk.length, :].copy_(tensor)
        self.slabs.let_go(slot)
        chunk.slot, chunk.base = slot, base
        self.used[slot] = weakref.ref(chunk)

    def touch(self, chunks: Sequence[StoredChunk]) -> None:
        """These are needed now: they are the last to be evicted."""
        for chunk in chunks:
            if chunk.slot is not None:
                self.used.move_to_end(chunk.slot)

    def get(self, chunks: Sequence[StoredChunk]) -> Iterator[tuple[int, list[States]]]:
        """Of each chunk, which has a slot, its base and the keys and values (layers, heads, chunk_size, size) of each
        group, good until the next one is asked for."""
        for chunk in chunks:
            assert chunk.slot is not None
            memory = self.slabs.slot(chunk.slot)
            yield chunk.base, [_states([_view(memory, part) for part in parts]) for parts in self.parts]
            self.slabs.let_go(chunk.slot)

    def release(self, slot: int) -> None:
        """Takes back the slot of a chunk that nobody refers to."""
        self.used.pop(slot, None)
        self.free.append(slot)

    def _take(self) -> int:
        if self.free:
            return self.free.pop()
        if self.limit is None or self.count < self.limit:
            self.count += 1
            return self.count - 1
        slot, reference = self.used.popitem(last=False)
        if (chunk := reference()) is not None:
            chunk.slot = None
        return slot


def new_store(config: Any, groups: list[StateGroup]) -> StateStore:
    """An empty store by the settings of the configuration."""
    limit = most_chunks(config, groups)
    return StateStore(groups, config.chunk_size, config.store_place, config.store_dtype, limit)


def quantize(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(numbers in int8, float32 scales) of states (..., tokens, size): one scale for all tokens of a channel."""
    scale = states.abs().amax(dim=-2, keepdim=True).float().clamp(min=1e-20) / 127
    return (states.float() / scale).round_().to(torch.int8), scale


def _states(views: list[torch.Tensor]) -> States:
    if len(views) == 2:
        return views[0], views[1]
    return views[0] * views[2], views[1] * views[3]


def _view(memory: torch.Tensor, part: Any) -> torch.Tensor:
    return memory[part.start : part.end].view(part.dtype).view(part.shape)
