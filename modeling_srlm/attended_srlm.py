"""What the next tokens attend to: a cache for the backbone that was filled beforehand, in memory taken once.

Of each row it holds, one behind the other and the last ones in the same column for all rows:

    [ sinks | states of the retrieved values | states of the window ] [ the chunk that is read ]

The window stays where it is while chunks are appended to it; what stands before it is written anew for each chunk,
over tokens that have left the window. When the memory ends, the window is moved back to its beginning, once in many
chunks, so that the cost of a token is the same however long the text is.
"""

import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from .moving_srlm import StateGroup
from .store_srlm import States


class Part(NamedTuple):
    """States to be put before a row's, which are asked for when they are written.

    `chunks`: of each chunk the position of its first token and the states of each group. `length`: tokens of all,
    without the first `skip` ones of the first chunk, which are left out.
    """

    chunks: Iterator[tuple[int, Sequence[States]]]
    length: int
    skip: int = 0


class AttendedLayer(DynamicLayer):
    """One layer's view of `AttendedStates`; in transformers' eyes a layer that holds what is attended to."""

    def __init__(self, owner: "AttendedStates", keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        # No cycle of references: the memory is given back with its owner, and not when the collector happens to run.
        self.owner, self.memory = weakref.proxy(owner), (keys, values)
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the states of the tokens that are read, and returns all that they attend to."""
        owner = self.owner
        end = owner.end + key_states.shape[-2]
        for memory, states in zip(self.memory, (key_states, value_states), strict=True):
            memory[: owner.rows, :, owner.end : end] = states
        keys, values = (memory[: owner.rows, :, owner.left : end] for memory in self.memory)
        return keys, values

    def get_seq_length(self) -> int:
        """Columns before those that are read."""
        return self.owner.end - self.owner.left


class AttendedStates(Cache):
    """Keys and values of a batch of rows, between `left` and `end`.

    Attributes:
        rows: so many of the first rows take part in the next pass.
        starts: the first column of each row. positions: of each row that of the next token.
        end: the column of the next token, the same for all rows.
        block: of the last columns the states with their gradient, by layer, a run of them for each pass; None where no
            gradient is taken.
    """

    def __init__(self, groups: list[StateGroup], rows: int, lead: int, window: int, chunk: int):
        """`lead`, `window` and `chunk`: the most tokens before the window, in it, and read behind it."""
        self.groups, self.lead, self.window = groups, lead, window
        self.bound = lead + window + chunk
        self.capacity = self.bound + max(chunk, window // 2)
        self.memory: list[States] = [_memory(group, rows, self.capacity) for group in groups]
        super().__init__(layers=[])
        self._view()
        self.rows = rows
        self.end = lead
        self.starts = [lead] * rows
        self.positions = [0] * rows
        self.block: list[list[States]] | None = None

    def _view(self) -> None:
        views: dict[int, AttendedLayer] = {}
        for group, (keys, values) in zip(self.groups, self.memory, strict=True):
            for place, layer in enumerate(group.layers):
                views[layer] = AttendedLayer(self, keys[place], values[place])
        self.layers = [views[layer] for layer in sorted(views)]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "layers": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._view()  # of a copy the layers are views of its own memory

    @property
    def left(self) -> int:
        """The first column that any row of the pass attends to."""
        return min(self.starts[: self.rows])

    def position_ids(self, count: int) -> torch.Tensor:
        """(rows, count) positions of the next tokens."""
        first = torch.tensor(self.positions[: self.rows])
        return first[:, None] + torch.arange(count)

    def mask(self, count: int) -> torch.Tensor | None:
        """(rows, columns) for a pass over `count` tokens; None where all rows attend to the same columns."""
        starts = self.starts[: self.rows]
        if min(starts) == max(starts):
            return None
        columns = torch.arange(self.left, self.end + count)
        return (columns >= torch.tensor(starts)[:, None]).long()

    def advance(self, count: int) -> None:
        """The rows of the pass have read `count` tokens (taken back, where it is negative)."""
        self.end += count
        for row in range(self.rows):
            self.positions[row] += count

    def begin_block(self, takes_gradient: bool) -> None:
        """What was read is constant from here on, and what will be read is so without `takes_gradient`."""
        self.block = [[] for _ in self.layers] if takes_gradient else None

    def past(self) -> list[list[States]]:
        """Of each layer what the rows of the pass attend to: constants, in memory that is written to later, then the
        runs of the block."""
        assert self.block is not None
        self.block = [[(keys[: self.rows], values[: self.rows]) for keys, values in runs] for runs in self.block]
        end = self.end - sum(keys.shape[-2] for keys, _ in self.block[0])
        constant = [[part[: self.rows, :, self.left : end] for part in layer.memory] for layer in self._layers]
        return [[(keys, values), *runs] for (keys, values), runs in zip(constant, self.block, strict=True)]

    def add(self, states: Sequence[States]) -> None:
        """Of each layer the states with their gradient that a pass has added."""
        assert self.block is not None
        for runs, layer, added in zip(self.block, self._layers, states, strict=True):
            runs.append(added)
            layer.update(added[0].detach(), added[1].detach())

    @property
    def _layers(self) -> list[AttendedLayer]:
        return self.layers  # type: ignore[return-value]

    def make_room(self, count: int, keep: Sequence[int], before: Sequence[int]) -> None:
        """Lets `count` more tokens of the rows of the pass in; of each the last `keep` columns stay, and `before` may
        come before them."""
        self.starts[: self.rows] = [self.end - kept for kept in keep]
        room = min(start - wanted for start, wanted in zip(self.starts, before, strict=False))
        if room < 0 or self.end + count > self.capacity or max(self.positions[: self.rows]) + count > self.bound:
            self._move_to(max(kept + wanted for kept, wanted in zip(keep, before, strict=True)), max(keep))

    def _move_to(self, end: int, length: int) -> None:
        """The last `length` columns go to those before `end`, and the next token's position is 0.

        So positions are small whatever was read; keys stand at the same distances as before.
        """
        source, target = slice(self.end - length, self.end), slice(end - length, end)
        shifts = [-position for position in self.positions[: self.rows]]
        for group, (keys, values) in zip(self.groups, self.memory, strict=True):
            moved = keys[:, : self.rows, :, source].clone()
            if group.rotation is not None:
                group.rotation.move_(moved.transpose(0, 1), shifts)
            keys[:, : self.rows, :, target] = moved
            values[:, : self.rows, :, target] = values[:, : self.rows, :, source].clone()
            self._turn_block(group, shifts)
        self.starts[: self.rows] = [start + end - self.end for start in self.starts[: self.rows]]
        self.positions[: self.rows] = [0] * self.rows
        self.end = end

    def _turn_block(self, group: StateGroup, shifts: Sequence[int]) -> None:
        """Moves the keys of the block, too; a gradient goes through."""
        if self.block is None or group.rotation is None:
            return
        for layer in group.layers:
            runs = [(keys[: self.rows], values[: self.rows]) for keys, values in self.block[layer]]
            self.block[layer] = [(group.rotation.move_(keys.clone(), shifts), values) for keys, values in runs]

    def align(self, ends: Sequence[int]) -> None:
        """All rows take part again: what each has up to its column of `ends` goes to one common end.

        Rows that were done before others have stayed where they were when those went on.
        """
        self.rows = len(ends)
        self.end = max(self.end, *(end - start for start, end in zip(self.starts, ends, strict=True)))
        for row, end in enumerate(ends):
            start, shift = self.starts[row], self.end - end
            if shift:
                for memory in (part for states in self.memory for part in states):
                    memory[:, row, :, start + shift : self.end] = memory[:, row, :, start:end].clone()
                self.starts[row] += shift

    def restart(self, length: int) -> None:
        """The one row is empty, and `length` tokens are about to be put before its end."""
        self.rows, self.end = 1, self.lead + length
        self.starts, self.positions = [self.end], [length]

    def put_before(self, row: int, parts: Sequence[Part]) -> None:
        """Writes states before those of a row."""
        column = self.starts[row] - sum(part.length for part in parts)
        position = self.positions[row] - (self.end - column)
        self.starts[row] = column
        for part in parts:
            skip = part.skip
            for base, states in part.chunks:
                length = states[0][0].shape[-2] - skip
                self._write(row, column, [(keys[:, :, skip:], values[:, :, skip:]) for keys, values in states],
                            position - skip - base)  # fmt: skip
                column, position, skip = column + length, position + length, 0

    def _write(self, row: int, column: int, states: Sequence[States], shift: int) -> None:
        """Writes a chunk's states from a column on; its keys move by `shift` positions."""
        for group, memory, (keys, values) in zip(self.groups, self.memory, states, strict=True):
            key_place, value_place = (part[:, row, :, column : column + keys.shape[-2]] for part in memory)
            value_place.copy_(values)
            if group.rotation is None:
                key_place.copy_(keys)
            else:
                group.rotation.write(keys, shift, key_place)

    def take(self, row: int, start: int, end: int) -> list[States]:
        """Of each group views of a row's states in the columns start..end-1."""
        return [(keys[:, row, :, start:end], values[:, row, :, start:end]) for keys, values in self.memory]

    def reorder(self, order: Sequence[int]) -> None:
        """The rows become those of these numbers, each any number of times."""
        used, index = slice(min(self.starts), self.end), torch.tensor(order)
        if len(order) != len(self.starts):
            self.memory, former = [_memory(group, len(order), self.capacity) for group in self.groups], self.memory
            self._view()
        else:
            former = self.memory
        for group, new, old in zip(self.groups, self.memory, former, strict=True):
            for memory, source in zip(new, old, strict=True):
                memory[:, :, :, used] = source[:, :, :, used].index_select(1, index.to(group.device))
        self.starts = [self.starts[row] for row in order]
        self.positions = [self.positions[row] for row in order]
        self.rows = len(order)


def _memory(group: StateGroup, rows: int, capacity: int) -> States:
    shape = len(group.layers), rows, group.heads, capacity
    keys = torch.zeros(*shape, group.key_size, dtype=group.dtype, device=group.device)
    return keys, torch.zeros(*shape, group.value_size, dtype=group.dtype, device=group.device)
