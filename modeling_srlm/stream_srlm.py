"""Texts that stream through the language model once, chunk by chunk, and look back at states that they have left.

The grid of chunks begins with a text's first token. Before a chunk is read, the states of what it retrieved are put
before those of the window; when it is read, its states go into the store. No token is computed twice, unless the
store has a limit: what was evicted is computed again from its text when it is retrieved.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from .attended_srlm import AttendedStates, Part, part_length
from .limits_srlm import chunk_limit
from .moving_srlm import StateGroup
from .placement_srlm import to_inputs
from .planning_srlm import Plan
from .scoring_srlm import evaluating
from .store_srlm import States, StateStore, StoredChunk


class StreamRow:
    """One text: what of it was read, and where that is kept.

    `tokens` (length,): all that is known of the text. `length`: how many of them were read. `window`: columns of the
    window with the chunk that is being read; `lead`: those before it.
    """

    def __init__(self, tokens: torch.Tensor, store: StateStore | None):
        self.tokens, self.store = tokens, store
        self.length = 0
        self.window = self.lead = 0
        self.chunks: list[StoredChunk] = []
        self.sinks: list[States] = []


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
        self.values = 2 * config.key_num if config.retrieval_method != "no" or plan.names_keys else 0
        before = self.sinks + (0 if plan.layout.replace else self.values * self.size)
        self.attended = AttendedStates(self.groups, len(rows), before, config.context_window_size, self.size)
        # A store for each: what one text has evicted has nothing to do with the others.
        self.rows = [StreamRow(tokens, new_store(plan, self.groups) if keeps else None) for tokens in rows]

    # Reading

    def read(self, ids: torch.Tensor, keep: torch.Tensor | int, states: bool = False) -> tuple[torch.Tensor, Any]:
        """(logits, last hidden states or None) of the next tokens `ids` (rows, n) of the first rows; logits where
        `keep` says (as `logits_to_keep` has it, never 0)."""
        attended, model = self.attended, self.plan.language_model
        attended.rows = len(ids)
        count = ids.shape[1]
        mask = attended.mask(count)
        places = attended.position_ids(count).to(ids.device)
        inputs = to_inputs(model, ids, places, None if mask is None else mask.to(ids.device))
        names = ("input_ids", "position_ids", "attention_mask")
        output = model(
            **dict(zip(names, inputs, strict=True)), past_key_values=attended, use_cache=True, logits_to_keep=keep,
            output_hidden_states=states,
        )  # fmt: skip
        attended.advance(count)
        for row in self.rows[: len(ids)]:
            row.length += count - (0 if row.length else self._head_size)
            row.window += count
        return output.logits.to(ids.device), output.hidden_states[-1] if states else None

    def begin(self, retrieved: Sequence[Sequence[int]]) -> None:
        """The next chunk of the first rows begins: each attends to the values of its keys, in the order given."""
        attended, size = self.attended, self.size
        number = len(retrieved)
        attended.rows = number
        leads = [self._lead(row, keys) for row, keys in zip(self.rows, retrieved, strict=False)]
        for row, keys in zip(self.rows, retrieved, strict=False):
            if row.length > self._window(len(keys)):
                row.window = min(row.window, self._window(len(keys)))
        keep = [row.window + (0 if place < number else row.lead) for place, row in enumerate(self.rows)]
        before = [sum(map(part_length, lead)) for lead in leads] + [0] * (len(keep) - number)
        attended.make_room(size + (0 if self.rows[0].length else self._head_size), keep, before)
        for place, (row, lead) in enumerate(zip(self.rows, leads, strict=False)):
            attended.put_before(place, lead)
            row.lead = attended.end - row.window - attended.starts[place]

    def end(self, count: int) -> None:
        """The first `count` rows have read a whole chunk: its states are kept."""
        attended, size = self.attended, self.size
        for place, row in enumerate(self.rows[:count]):
            if not row.sinks and self.sinks:
                first = attended.end - row.window
                taken = attended.take(place, first, first + self.sinks)
                row.sinks = [(keys.clone(), values.clone()) for keys, values in taken]
            if row.store is not None:
                states = attended.take(place, attended.end - size, attended.end)
                row.chunks.append(row.store.put(states, attended.positions[place] - size))

    @property
    def _head_size(self) -> int:
        return 0 if self.head is None else 1

    def _window(self, retrieved: int) -> int:
        """Most columns of a window beside so many retrieved values."""
        window = self.plan.config.context_window_size
        return window - (2 * retrieved * self.size if self.plan.layout.replace else 0)

    # Looking back

    def _lead(self, row: StreamRow, keys: Sequence[int]) -> list[Part]:
        """What stands before the window of a row's next chunk: nothing while the window holds all, then the sinks and
        the states of the retrieved values, a chunk that two of them share once."""
        if row.length <= self._window(len(keys)):
            return []
        parts: list[Part] = []
        if self.sinks:
            states = [(keys_[None], values[None]) for keys_, values in row.sinks]
            parts.append(([(one.clone(), two) for one, two in states], [0], 0))
        numbers = list(dict.fromkeys(number for key in keys for number in (key, key + 1)))
        if numbers:
            parts += self._stored(row, numbers)
        return parts

    def _stored(self, row: StreamRow, numbers: list[int]) -> list[Part]:
        """The states of a row's chunks, in runs of which none begins within the sinks."""
        runs: list[list[int]] = [[]]
        for number in numbers:
            if number == 0 and runs[-1]:
                runs.append([])
            runs[-1].append(number)
        found: list[Part] = []
        for run in runs:
            chunks = [row.chunks[number] for number in run]
            self._compute_missing(row, run)
            assert row.store is not None
            skip = self.sinks - self._head_size if run[0] == 0 else 0
            found.append((row.store.get(chunks), [chunk.base for chunk in chunks], max(skip, 0)))
        return found

    def _compute_missing(self, row: StreamRow, numbers: Sequence[int]) -> None:
        """Computes evicted chunks again from their text, behind the sinks and the chunk before them."""
        assert row.store is not None
        row.store.touch([row.chunks[number] for number in numbers])
        for number in numbers:
            if row.chunks[number].slot is None:
                self._compute(row, number)

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


def new_store(plan: Plan, groups: list[StateGroup]) -> StateStore:
    """An empty store by the settings of the configuration."""
    config = plan.config
    store = StateStore(groups, config.chunk_size, config.store_place, config.store_dtype)
    store.limit = chunk_limit(config, store.chunk_bytes)
    return store
