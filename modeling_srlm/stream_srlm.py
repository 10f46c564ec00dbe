"""Texts that stream through the language model once, chunk by chunk, and look back at states that they have left.

The grid of chunks begins with a text's first token. Before a chunk is read, the states of what it retrieved are put
before those of the window; when it is read, its states go into the store. No token is computed twice, unless the
store has a limit: what was evicted is computed again from its text when it is retrieved.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from .attended_srlm import AttendedStates, Part
from .gradient_srlm import run_pass, without_checkpointing
from .placement_srlm import to_inputs
from .planning_srlm import Plan
from .scoring_srlm import evaluating
from .store_srlm import States, StateStore, StoredChunk, new_store


class StreamRow:
    """One text: what of it was read, and where that is kept.

    `tokens` (length,): all that is known of the text. `length`: how many of them were read; `complete`: chunks of them
    that have ended. `window`: columns of the window with the chunk that is being read; `lead`: those before it.
    `asked`: the first chunk that has read what a prompt's end asked for, and not the chunk before it. `gone`: so many
    of the first chunks have no states any more. `retrieved`: what the open chunk looks back at, in generation."""

    retrieved: tuple[torch.Tensor, torch.Tensor]

    def __init__(self, tokens: torch.Tensor, store: StateStore | None):
        self.tokens, self.store = tokens, store
        self.length = self.complete = 0
        self.window = self.lead = 0
        self.chunks: list[StoredChunk] = []
        self.sinks: list[States] = []
        self.asked: int | None = None
        self.gone = 0

    def let_go(self, count: int) -> None:
        """The states of the first `count` chunks are not needed any more."""
        for chunk in self.chunks[self.gone : max(count, self.gone)]:
            chunk.let_go()
        self.gone = max(count, self.gone)

    def copy(self) -> "StreamRow":
        """A row with the same past, which may go on differently."""
        other = copy.copy(self)
        other.chunks = list(self.chunks)
        return other


class Stream:
    """Some texts on their way through the language model, rows of one batch.

    Args:
        rows: the tokens of each text, of which more may become known.
        keeps: whether states are kept for later chunks.
    """

    def __init__(self, plan: Plan, rows: Sequence[torch.Tensor], keeps: bool = True):
        config = plan.config
        assert plan.states is not None
        self.plan, self.size, self.groups = plan, config.chunk_size, plan.states
        self.head = plan.layout.bos
        self.sinks = max(config.num_sink_tokens, 0 if self.head is None else 1)
        self.values = 2 * config.key_num if config.retrieval_method != "no" else 0
        before = self.sinks + (0 if plan.layout.replace else self.values * self.size)
        self.attended = AttendedStates(self.groups, len(rows), before, config.context_window_size, self.size)
        # A store for each: what one text has evicted has nothing to do with the others.
        self.rows = [StreamRow(tokens, new_store(config, self.groups) if keeps else None) for tokens in rows]

    # Reading

    def read(self, ids: torch.Tensor, keep: torch.Tensor | int, states: bool = False) -> tuple[torch.Tensor, Any]:
        """(logits, last hidden states or None) of the next tokens `ids` (rows, n) of the first rows; logits where
        `keep` says (as `logits_to_keep` has it, never 0). With a gradient where the block takes one."""
        assert len(ids) == self.attended.rows
        logits, hidden = read_behind(self.plan, self.attended, ids, keep, states)
        count = ids.shape[1]
        self.attended.advance(count)
        for row in self.rows[: len(ids)]:
            row.length += count - (0 if row.length else self.head_size)
            row.window += count
        return logits, hidden

    def begin(self, rows: Sequence[int], retrieved: Sequence[Sequence[int]]) -> None:
        """The next chunk of these rows begins: each attends to the values of its keys, in the order given.

        The rows that take part in the next pass, `attended.rows`, are these or more.
        """
        attended = self.attended
        leads = {row: self.lead_of(self.rows[row], keys) for row, keys in zip(rows, retrieved, strict=True)}
        for number, keys in zip(rows, retrieved, strict=True):
            row = self.rows[number]
            row.lead = 0
            if row.length > self.window_beside(len(keys)):
                row.window = min(row.window, self.window_beside(len(keys)))
        keep = [row.lead + row.window for row in self.rows[: attended.rows]]
        before = [sum(part.length for part in leads.get(number, ())) for number in range(attended.rows)]
        attended.make_room(self.size + (0 if self.rows[0].length else self.head_size), keep, before)
        for number, lead in leads.items():
            attended.put_before(number, lead)
            self.rows[number].lead = before[number]

    def end(self, rows: Sequence[int]) -> None:
        """These rows have read a whole chunk: its states are kept."""
        attended, size = self.attended, self.size
        for place in rows:
            row = self.rows[place]
            if not row.sinks and self.sinks:
                first = attended.end - row.window
                taken = attended.take(place, first, first + self.sinks)
                row.sinks = [(keys.clone(), values.clone()) for keys, values in taken]
            row.complete += 1
            if row.store is not None:
                states = attended.take(place, attended.end - size, attended.end)
                row.chunks.append(row.store.put(states, attended.positions[place] - size))
                row.store.touch(row.chunks[-self.plan.window_chunks :])  # to go back to, when a text goes on otherwise

    @property
    def head_size(self) -> int:
        return 0 if self.head is None else 1

    def window_beside(self, retrieved: int) -> int:
        """Most columns of a window beside so many retrieved values."""
        window = self.plan.config.context_window_size
        return window - (2 * retrieved * self.size if self.plan.layout.replace else 0)

    def take_back(self, count: int) -> None:
        """The last `count` tokens of the chunk that is being read were not read."""
        self.attended.advance(-count)
        for row in self.rows[: self.attended.rows]:
            row.length -= count
            row.window -= count

    def rewind(self, chunks: int) -> bool:
        """The one row has read so many whole chunks, fewer than before; whether that is possible."""
        row, shown = self.rows[0], min(chunks, self.plan.window_chunks)
        window = row.chunks[chunks - shown : chunks]
        if row.store is None or not shown or chunks - shown < row.gone or not all(one.as_read for one in window):
            return False
        parts = self.window_of(row, chunks - shown, chunks)
        row.chunks, row.complete, row.length = row.chunks[:chunks], chunks, chunks * self.size
        row.lead, row.window = 0, sum(part.length for part in parts)
        self.attended.restart(row.window)
        self.attended.put_before(0, parts)
        return True

    def reorder(self, order: Sequence[int]) -> None:
        """The rows become those of these numbers, each any number of times."""
        self.attended.reorder(order)
        self.rows = [self.rows[row].copy() for row in order]

    # Looking back

    def lead_of(self, row: StreamRow, keys: Sequence[int]) -> list[Part]:
        """What stands before the window of a row's next chunk: nothing while the window holds all, then the sinks and
        the states of the retrieved values, a chunk that two of them share once."""
        if row.length <= self.window_beside(len(keys)):
            return []
        parts: list[Part] = []
        if self.sinks:
            parts.append(Part(iter([(0, row.sinks)]), self.sinks))
        numbers = list(dict.fromkeys(number for key in keys for number in (key, key + 1)))
        if numbers:
            parts += self._stored(row, numbers)
        return parts

    def window_of(self, row: StreamRow, first: int, end: int) -> list[Part]:
        """The states of a row's chunks first..end-1 as they stand in a window: behind the BOS token, where it is."""
        parts = self._stored(row, list(range(first, end)), skips=False)
        if first == 0 and self.head_size:
            head = [(keys[:, :, :1], values[:, :, :1]) for keys, values in row.sinks]
            parts.insert(0, Part(iter([(0, head)]), 1))
        return parts

    def _stored(self, row: StreamRow, numbers: list[int], skips: bool = True) -> list[Part]:
        """The states of a row's chunks, in runs, as the sinks are left out of the first chunk (with `skips`)."""
        runs: list[list[int]] = [[]]
        for number in numbers:
            if number == 0 and runs[-1]:
                runs.append([])
            runs[-1].append(number)
        skip = max(self.sinks - self.head_size, 0) if skips else 0
        skipped = [skip if run[0] == 0 else 0 for run in runs]
        return [
            Part(self._states_of(row, run), len(run) * self.size - left_out, left_out)
            for run, left_out in zip(runs, skipped, strict=True)
        ]

    def _states_of(self, row: StreamRow, numbers: Sequence[int]) -> Iterator[tuple[int, list[States]]]:
        """What `StateStore.get` gives of a row's chunks; evicted ones are computed again from their text, behind the
        sinks and the chunk before them."""
        assert row.store is not None
        chunks = [row.chunks[number] for number in numbers]
        row.store.touch([*row.chunks[-self.plan.window_chunks :], *chunks])  # what is computed again evicts neither
        for number, chunk in zip(numbers, chunks, strict=True):
            if chunk.slot is None:
                self._compute(row, number)
        yield from row.store.get(chunks)

    @torch.no_grad()
    def _compute(self, row: StreamRow, number: int) -> None:
        size = self.size
        first = max(number - 1, 0) * size
        text = row.tokens[first : (number + 1) * size]
        head = row.tokens[:0] if self.head is None else self.head.to(row.tokens)
        sinks = row.tokens[: min(self.sinks - len(head), first)]
        ids = torch.cat([head, sinks, text])[None]
        cache = DynamicCache()
        with evaluating(self.plan.language_model):
            (placed,) = to_inputs(self.plan.language_model, ids)
            self.plan.language_model(input_ids=placed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: Any = cache.layers
        states = [
            tuple(
                torch.stack([getattr(layers[layer], name)[0, :, -size:] for layer in group.layers])
                for name in ("keys", "values")
            )
            for group in self.groups
        ]
        assert row.store is not None
        row.store.put_again(row.chunks[number], states, ids.shape[1] - size)  # type: ignore[arg-type]


def read_behind(
    plan: Plan, attended: AttendedStates, ids: torch.Tensor, keep: torch.Tensor | int, states: bool = False
) -> tuple[torch.Tensor, Any]:
    """What `Stream.read` returns, of the tokens `ids` (rows, n) behind what is attended to, which stays as it is."""
    model, count = plan.language_model, ids.shape[1]
    mask = attended.mask(count)
    places = attended.position_ids(count).to(ids.device)
    inputs = to_inputs(model, ids, places, None if mask is None else mask.to(ids.device))
    names = ("input_ids", "position_ids", "attention_mask")
    arguments = {**dict(zip(names, inputs, strict=True)), "logits_to_keep": keep}
    if attended.block is not None and torch.is_grad_enabled():
        logits, hidden, added = run_pass(model, arguments, attended.past(), states)
        attended.add(added)
    else:
        with torch.no_grad(), without_checkpointing(model):
            output = model(**arguments, past_key_values=attended, use_cache=True, output_hidden_states=states)
        logits, hidden = output.logits, output.hidden_states[-1] if states else None
    return logits.to(ids.device), hidden
