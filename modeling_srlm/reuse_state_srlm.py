"""What generation carries from token to token with `reuse_states`: the texts as they stream, and what they retrieved.

The grid of chunks begins with a text's first token. The chunk in which a prompt ends is read behind what the prompt's
last tokens ask for, as many as a chunk has; told the prompt's length, `forward` does the same. A text that goes on is
read again from that chunk on: the same way, whatever was asked before.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from .chunking_srlm import Document
from .generation_state_srlm import RetrievalState
from .lookup_srlm import TokenLookup
from .planning_srlm import Plan
from .retrieval_srlm import arrange
from .selection_srlm import KeySelector, StateSelector, make_selector
from .stream_srlm import Stream


class ReuseState(RetrievalState):
    """See `RetrievalState`; here chunk numbers count from a text's first token, and -1 stands for rows that go on."""

    def __init__(self, plan: Plan, prompt_length: int, max_guesses: int):
        DynamicCache.__init__(self)
        self.stream: Stream = None  # type: ignore[assignment]  # until the prompts are read
        self.selectors: list[KeySelector] = []
        self.hidden: list[list[torch.Tensor]] = []  # of each row, those of the tokens of its last chunk
        self.plan, self.prompt_length, self.use_cache, self.mask = plan, prompt_length, True, None
        self.retrievals: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self.can_guess, self.lookup = max_guesses > 0, TokenLookup(max_guesses)
        self.guesses: list[int] = []
        self.guessed_logits, self.num_guessed, self.prompt_read = torch.empty(0), 0, False
        self.numbers: tuple[object, ...] = ()  # of the weights when the prompts were read

    def go_on_from(self, other: "ReuseState") -> None:
        """Takes over what another call has read, and not what it retrieved."""
        self.stream, self.selectors, self.hidden = other.stream, other.selectors, other.hidden

    # What generate asks for

    def next_logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(rows, 1, V) logits of the token that follows the documents so far (rows, length)."""
        if not self.prompt_read:
            self.prompt_read = True
            return self._read_prompts(input_ids, attention_mask)
        for row, token in zip(self.stream.rows, input_ids[:, -1:], strict=True):
            row.tokens = torch.cat([row.tokens, token])
        if self._at_boundary():
            self.drop_guesses()
            self._begin_chunks(input_ids.shape[1] - self.prompt_length)
        if self.can_guess and len(input_ids) == 1:
            return self._step_with_guesses(input_ids[:, -1:], room=self._left() - 1)
        return self._run(input_ids[:, -1:])

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Rows in the order of beam search."""
        self._reorder(beam_idx.tolist())

    def _reorder(self, order: list[int]) -> None:
        self.stream.reorder(order)
        self.hidden = [list(self.hidden[row]) for row in order]
        # Rows of one past go on differently: each has a selector of its own.
        first = {row: place for place, row in reversed(list(enumerate(order)))}
        kept = self.selectors
        self.selectors = [kept[row] if first[row] == place else kept[row].copy() for place, row in enumerate(order)]

    # Reading

    def _read_prompts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Reads each text once, rows that are equal together, those of similar length in the same passes."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        texts = [self._without_bos(ids[real.bool()].long()) for ids, real in zip(input_ids, mask, strict=True)]
        numbers: dict[bytes, int] = {}
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        own = [numbers.setdefault(texts[row].cpu().numpy().tobytes(), len(numbers)) for row in order]
        firsts = [texts[order[own.index(number)]] for number in range(len(numbers))]
        logits = self._continue(firsts) if len(firsts) == 1 and self.stream is not None else self._start(firsts)
        place = [own[order.index(row)] for row in range(len(texts))]
        if place != list(range(len(firsts))):
            self._reorder(place)
            self.retrievals = [(new, indices[place], scores[place]) for new, indices, scores in self.retrievals]
        if self.can_guess and len(texts) == 1:
            self.lookup.start(texts[0].tolist())
        return logits[place]

    def _without_bos(self, text: torch.Tensor) -> torch.Tensor:
        bos = self.plan.layout.bos
        return text[1:] if bos is not None and len(text) and text[0] == bos.to(text) else text

    def _start(self, texts: list[torch.Tensor]) -> torch.Tensor:
        """(rows, 1, V) logits behind texts, the longest first."""
        self.stream = Stream(self.plan, texts)
        self.selectors = [make_selector(self.plan) for _ in texts]
        self.hidden = [[] for _ in texts]
        return self._read_on()

    def _continue(self, texts: list[torch.Tensor]) -> torch.Tensor:
        """The logits behind a text, of which only what is new is read."""
        (row,), (text,) = self.stream.rows, texts
        count = max(min(row.length, len(text) - 1), 0)
        differs = (row.tokens[:count].cpu() != text[:count].cpu()).nonzero()
        same = int(differs[0]) if len(differs) else count
        if self.plan.asks(last := (len(text) - 1) // self.stream.size):
            same = min(same, last * self.stream.size)
        if row.asked is not None:  # a text is read the same way whatever was asked before
            same = min(same, row.asked * self.stream.size)
        if same <= (row.asked or 0) * self.stream.size:
            row.asked = None
        if same and same >= row.complete * self.stream.size:
            self._take_back(row.length - same)
        elif same and self.stream.rewind(same // self.stream.size):
            self.hidden = [[]]
            self.selectors[0].forget(row.complete)
        else:
            del row, self.stream  # what it has read is not kept beside the new text
            return self._start(texts)
        row.tokens = text
        logits = self._read_on()
        if not self.retrievals:  # no chunk began: what the open one looks back at was retrieved before
            indices, scores = row.retrieved
            self.retrievals.append((0, indices[None].clone(), scores[None].clone()))
        return logits

    def _read_on(self) -> torch.Tensor:
        """Reads what is known of the rows' texts and not yet read, chunk by chunk."""
        stream, attended = self.stream, self.stream.attended
        rows, size = stream.rows, stream.size
        found: list[torch.Tensor] = [torch.empty(0)] * len(rows)
        ends = [0] * len(rows)
        while waiting := [row for row in rows if row.length < len(row.tokens) or not row.window]:
            attended.rows = len(waiting)  # the longest come first
            start = rows[0].length
            stop = start - start % size + size
            ending = [number for number, row in enumerate(waiting) if len(row.tokens) <= stop]
            self._begin_chunks(0, ending)
            parts = [row.tokens[start : min(stop, len(row.tokens))] for row in waiting]
            ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
            before = stream.head_size if not start else 0
            if before and stream.head is not None:
                ids = torch.cat([stream.head.to(ids).expand(len(ids), 1), ids], dim=1)
            lasts = torch.tensor([len(part) - 1 + before for part in parts], device=ids.device)
            kept = torch.unique(lasts)
            logits, hidden = stream.read(ids, kept, self._looks_at_states)
            if self._looks_at_states and (asking := [number for number in ending if rows[number].asked is not None]):
                self._ask_with_states(asking, ids.shape[1], hidden, [len(part) for part in parts])
                logits, hidden = stream.read(ids, kept, True)
            for number, (row, part) in enumerate(zip(waiting, parts, strict=True)):
                self._remember(number, hidden, before, len(part))
                spare = ids.shape[1] - before - len(part)
                row.length, row.window = row.length - spare, row.window - spare
                ends[number] = attended.end - spare
                attended.positions[number] -= spare
                found[number] = logits[number, torch.searchsorted(kept, lasts[number])][None]
        attended.align(ends)
        return torch.stack(found)

    def _run(self, ids: torch.Tensor) -> torch.Tensor:
        keep = torch.arange(ids.shape[1], device=ids.device)
        logits, hidden = self.stream.read(ids, keep, self._looks_at_states)
        for row in range(len(ids)):
            self._remember(row, hidden, 0, ids.shape[1])
        return logits

    def _remember(self, row: int, hidden: torch.Tensor | None, start: int, count: int) -> None:
        if hidden is not None:
            self.hidden[row].append(hidden[row, start : start + count])

    def drop_guesses(self) -> None:
        """Takes back what was read for guesses that did not come true."""
        if self.num_guessed:
            self.lookup.learn(self.num_guessed, self.num_guessed - len(self.guesses))
        self._take_back(len(self.guesses))
        self.guesses, self.num_guessed = [], 0

    def _take_back(self, count: int) -> None:
        if count:
            self.stream.take_back(count)
            if self._looks_at_states:
                self.hidden = [[torch.cat(parts)[:-count]] for parts in self.hidden]

    @property
    def _looks_at_states(self) -> bool:
        return isinstance(self.selectors[0], StateSelector)

    # Chunks

    def _left(self) -> int:
        """Tokens that the chunk of the one row still lacks."""
        return self.stream.size - (self.stream.rows[0].length - len(self.guesses)) % self.stream.size

    def _at_boundary(self) -> bool:
        size, spare = self.stream.size, len(self.guesses)
        return any((row.length - spare) % size == 0 for row in self.stream.rows)

    def _begin_chunks(self, new: int, ending: Sequence[int] = ()) -> None:
        """Ends the chunks that are whole, and retrieves for the next ones, before the new token of that number.

        The prompts of the rows `ending` end in the chunk that begins.
        """
        stream = self.stream
        rows = stream.rows[: stream.attended.rows]
        whole = [number for number, row in enumerate(rows) if row.length % stream.size == 0]
        if not whole:
            return
        ended = [number for number in whole if stream.rows[number].length > stream.rows[number].complete * stream.size]
        stream.end(ended)
        for number in ended:
            if not stream.values:  # nothing is looked back at; to go on from an earlier place so much is enough
                stream.rows[number].let_go(stream.rows[number].complete - 2 * self.plan.window_chunks)
            selector = self.selectors[number]
            if isinstance(selector, StateSelector):
                selector.learn(torch.cat(self.hidden[number]))
            self.hidden[number] = []
        if new or not self.retrievals:  # of a prompt the last one counts
            shape = len(stream.rows), self.plan.config.key_num
            self.retrievals.append((new, torch.full(shape, -1), torch.full(shape, float("-inf"))))
        for number in whole:
            row = stream.rows[number]
            if asks := number in ending and self.plan.asks(row.complete):
                row.asked = row.complete
            # What the prompt's end asks for; by states when they are there.
            self._select(number, row.tokens[-stream.size :] if asks and not self._looks_at_states else None)
        self._begin(whole)

    def _ask_with_states(self, asking: list[int], count: int, hidden: Any, lengths: list[int]) -> None:
        """Takes the tokens that were just read back, to be read again behind what the prompts' ends ask for."""
        self.stream.take_back(count)
        for number in asking:
            query = self.selectors[number].mean_with(hidden[number, : lengths[number]])  # type: ignore[attr-defined]
            self._select(number, query)
        self._begin(asking)

    def _select(self, number: int, query: torch.Tensor | None) -> None:
        """What a row's next chunk retrieves, in the last of `retrievals`."""
        row, size = self.stream.rows[number], self.stream.size
        _, indices, scores = self.retrievals[-1]
        block = self.plan.stream_block(row.complete)
        if block.num_keys and self.plan.config.retrieval_method != "no":
            tokens = row.tokens[: block.first_target * size]
            self.selectors[number].prepare(Document(tokens, tokens, size, 0), [block])
            (indices[number],), (scores[number],) = self.selectors[number].select(block, list(block.targets), query)
        row.retrieved = indices[number], scores[number]

    def _begin(self, numbers: list[int]) -> None:
        _, indices, _ = self.retrievals[-1]
        order = self.plan.config.order_method
        self.stream.begin(numbers, [arrange(indices[number].tolist(), order) for number in numbers])
