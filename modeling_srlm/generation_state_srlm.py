"""What generation carries from token to token: the documents so far, what they retrieved, the backbone's cache."""

import inspect
from typing import Any

import torch
from transformers import DynamicCache

from .cache_srlm import BoundedLayer, keeps_past, renew_layers
from .chunking_srlm import Block, Document
from .lookup_srlm import MAX_GUESSES, TokenLookup
from .placement_srlm import to_inputs
from .planning_srlm import Plan
from .retrieval_srlm import arrange
from .selection_srlm import KeySelector


class Retrieved:
    """What a copy or a pickle of a state holds: `retrievals`, and neither the model nor what it has read."""

    def __init__(self, retrievals: list[tuple[int, torch.Tensor, torch.Tensor]]):
        self.retrievals = retrievals


class RetrievalState(DynamicCache):
    """What `generate` carries from token to token: the backbone's key-value cache of the assembled inputs, and more.

    Attributes:
        retrievals: (number of new tokens before it, indices (rows, k), scores (rows, k)) of each retrieval; chunk
            numbers count from a prompt's first token's chunk. Of beam search those of the sequences that are returned;
            -1 where one had ended.
    """

    def __init__(self, plan: Plan, prompt_length: int, use_cache: bool, max_guesses: int = MAX_GUESSES):
        self.plan, self.prompt_length = plan, prompt_length
        self.use_cache = use_cache = use_cache and keeps_past(plan.language_model)
        config = plan.config
        retrieved = 0 if config.retrieval_method == "no" else config.key_num * config.value_size
        super().__init__(config=config.get_text_config())
        self.capacity = config.context_window_size + retrieved + 1
        self.layers = renew_layers(config.get_text_config(), self.capacity, []) if use_cache else []
        self.selectors: list[KeySelector] = []
        self.inputs: list[tuple[tuple[int, ...], int]] = []  # of each row: its keys, and where its window starts
        self.mask: torch.Tensor | None = None  # (rows, length) of the assembled inputs; None where none is padded
        self.retrievals: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        # Guessing is for one row, and for layers that can take back what was read in vain.
        self.can_guess = use_cache and max_guesses > 0 and all(type(layer) is BoundedLayer for layer in self.layers)
        self.lookup = TokenLookup(max_guesses)
        self.guesses: list[int] = []  # tokens that the cache holds and nobody has chosen yet
        self.guessed_logits = torch.empty(0)  # (1, len(guesses), V) logits behind them
        self.num_guessed = 0
        self.takes_positions = "position_ids" in inspect.signature(plan.language_model.forward).parameters

    def __reduce__(self) -> tuple[type[Retrieved], tuple[Any]]:
        return Retrieved, (self.retrievals,)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Rows in the order of beam search."""
        super().reorder_cache(beam_idx)
        order = beam_idx.tolist()
        self.selectors = [self.selectors[i] for i in order]
        self.inputs = [self.inputs[i] for i in order]
        if self.mask is not None:
            self.mask = self.mask[beam_idx]

    def follow_beams(self, beams: torch.Tensor) -> None:
        """Leaves in `retrievals` what the returned sequences looked back at, and nothing of other beams.

        Args:
            beams: (rows, new) the row that each new token was chosen from, -1 behind a sequence's end.
        """
        kept = []
        for new, indices, scores in self.retrievals:
            if new < beams.shape[1]:
                row = beams[:, new].cpu().long()
                ended = (row < 0)[:, None]
                row = row.clamp(min=0)
                kept.append((new, indices[row].masked_fill(ended, -1), scores[row].masked_fill(ended, float("-inf"))))
        self.retrievals = kept

    def next_logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(rows, 1, V) logits of the token that follows the documents so far (rows, length)."""
        new = input_ids.shape[1] - self.prompt_length
        at_boundary = new % self.plan.config.chunk_size == 0
        if at_boundary:
            self.drop_guesses()
        if at_boundary or not self.use_cache:
            documents = self._documents(input_ids, attention_mask)
            changed = at_boundary and self._retrieve(documents, new)
            if changed or not self.use_cache:
                return self._read(documents, new)
        if self.mask is not None:
            self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        if self.can_guess and len(input_ids) == 1:
            return self._step_with_guesses(input_ids[:, -1:], room=self._room(new))
        return self._run(input_ids[:, -1:])

    def _room(self, new: int) -> int:
        """Tokens before the one with which the next chunk begins to be read."""
        size = self.plan.config.chunk_size
        return size - 1 - new % size

    def _step_with_guesses(self, token: torch.Tensor, room: int) -> torch.Tensor:
        """(1, 1, V) logits behind `token` (1, 1), of which `room` more stand before the next chunk boundary."""
        self.lookup.add(int(token))
        if self.guesses and self.guesses[0] == int(token):
            self.guesses.pop(0)
            logits, self.guessed_logits = self.guessed_logits[:, :1], self.guessed_logits[:, 1:]
            return logits
        self.drop_guesses()
        self.guesses = self.lookup.guess(room)
        self.num_guessed = len(self.guesses)
        logits = self._run(torch.cat([token, token.new_tensor([self.guesses], dtype=token.dtype)], dim=1))
        self.guessed_logits = logits[:, 1:]
        return logits[:, :1]

    def drop_guesses(self) -> None:
        """Takes back what was read for guesses that did not come true."""
        if self.num_guessed:
            self.lookup.learn(self.num_guessed, self.num_guessed - len(self.guesses))
        if self.guesses:
            layers: Any = self.layers
            for layer in layers:
                layer.crop(-len(self.guesses))
        self.guesses, self.num_guessed = [], 0

    def _documents(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[Document]:
        """The rows without padding; an unfinished chunk is filled up, so that the grid is the prompt's."""
        size = self.plan.config.chunk_size
        missing = (self.prompt_length - input_ids.shape[1]) % size
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        input_ids, mask = (torch.nn.functional.pad(part, (0, missing), value=1) for part in (input_ids, mask))
        rows = [ids[real.bool()] for ids, real in zip(input_ids, mask, strict=True)]
        return [Document(row, row, size) for row in rows]

    def _block(self, document: Document, new: int) -> Block:
        """The block of the next token."""
        chunk_size = self.plan.config.chunk_size
        target = self._chunks(document) - (0 if new % chunk_size == 0 else 1)
        size = self.plan.target_size // chunk_size
        first = target - new // chunk_size % size
        return self.plan.block(first, first + size)

    def _chunks(self, document: Document) -> int:
        return (len(document.tokens) + document.padding) // document.chunk_size

    def _retrieve(self, documents: list[Document], new: int) -> bool:
        """Retrieves for each row's next chunk; whether any input has changed."""
        order = self.plan.config.order_method
        inputs, selections = [], []
        for row, (document, selector) in enumerate(zip(documents, self._own_selectors(documents), strict=True)):
            block = self._block(document, new)
            target = self._chunks(document)
            selector.prepare(document, [Block(target, target + 1, block.num_keys)])
            selections.append(selector.select(block, [target]))
            keys = arrange(selections[row][0][0].tolist(), order)
            inputs.append((keys, self.plan.layout.window_start(document, block, len(keys))))
        indices, scores = (torch.cat(parts) for parts in zip(*selections, strict=True))
        self.retrievals.append((new, indices, scores))
        changed, self.inputs = inputs != self.inputs, inputs
        return changed

    def _own_selectors(self, documents: list[Document]) -> list[KeySelector]:
        """One selector a row, shared only by rows that are equal so far, such as the beams of a prompt."""
        if not self.selectors:
            self.selectors = [KeySelector(self.plan)] * len(documents)
        owners: dict[tuple[int, bytes], KeySelector] = {}
        taken: set[int] = set()
        for row, document in enumerate(documents):
            selector = self.selectors[row]
            name = id(selector), document.tokens.cpu().numpy().tobytes()
            if name not in owners:
                owners[name] = selector.copy() if id(selector) in taken else selector
                taken.add(id(selector))
            self.selectors[row] = owners[name]
        return self.selectors

    def _read(self, documents: list[Document], new: int) -> torch.Tensor:
        """Reads the assembled inputs from their beginning, padded on the left."""
        missing = -new % self.plan.config.chunk_size
        rows = []
        for document, (keys, _) in zip(documents, self.inputs, strict=True):
            block = self._block(document, new)
            tokens = self.plan.layout.tokens(document, block, keys, self._chunks(document))[0]
            rows.append(tokens[: len(tokens) - missing])
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        longest = int(lengths.max())
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
        mask = torch.arange(longest, device=ids.device) >= (longest - lengths)[:, None]
        self.mask = None if mask.all() else mask.long()
        if self.use_cache:
            self.layers = renew_layers(self.plan.config.get_text_config(), self.capacity, self.layers)
        if self.can_guess and len(ids) == 1:
            self.lookup.start(ids[0].tolist())
        return self._run(ids)[:, -1:]

    def _run(self, ids: torch.Tensor) -> torch.Tensor:
        device = ids.device
        ids, mask = to_inputs(self.plan.language_model, ids, self.mask)
        inputs: dict[str, Any] = {"attention_mask": mask}
        if self.takes_positions:  # some families count them from 0 in each pass where none are given
            inputs["position_ids"] = self._positions(ids, mask)
        if self.use_cache:
            inputs["past_key_values"] = self
        keep = 1 + len(self.guesses)
        output = self.plan.language_model(input_ids=ids, use_cache=self.use_cache, logits_to_keep=keep, **inputs)
        return output.logits.to(device)

    def _positions(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The positions of `ids`, which the backbone reads now: (rows or 1, n)."""
        count = ids.shape[1]
        if mask is not None:
            return (mask.cumsum(1) - 1).clamp(min=0)[:, -count:]
        start = self.get_seq_length() if self.use_cache else 0
        return torch.arange(start, start + count, device=ids.device)[None]
