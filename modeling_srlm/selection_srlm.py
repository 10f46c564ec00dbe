"""Which keys the targets of a document retrieve, by the configured method."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch

from .bm25_srlm import Bm25Index
from .chunking_srlm import Block, Document
from .encoding_srlm import ChunkTable
from .oracle_srlm import best_sets, score_keys
from .planning_srlm import Plan
from .retrieval_srlm import dense_scores, relevance, top_k


class KeySelector:
    """Selects keys for the targets of one document, which may grow: each chunk is encoded and counted once."""

    def __init__(self, plan: Plan):
        self.plan, self.config = plan, plan.config
        self.encode: Any = plan.encode  # there where a method comes to it: the plan's maker checks that
        self.key_width = 2 if self.config.add_key_continuation else 1
        self.one_role = plan.one_role and self.key_width == 1
        self.document: Any = None
        self.bm25_index: Bm25Index | None = None
        self.tables = {role: ChunkTable() for role in self._roles}

    @property
    def _roles(self) -> tuple[str, ...]:
        return ("key",) if self.one_role else ("query", "key")

    def copy(self) -> "KeySelector":
        """A selector for a document that has the same beginning as this one's and goes on differently."""
        other = KeySelector(self.plan)
        for role, table in self.tables.items():
            other.tables[role].begin_with(table)
        return other

    def forget(self, chunks: int) -> None:
        """Only the first `chunks` chunks are still what they were."""
        self.bm25_index = None
        for table in self.tables.values():
            table.cut(max(chunks - self.key_width + 1, 0))

    def prepare(self, document: Document, blocks: Sequence[Block]) -> None:
        """Takes the document, and embeds in one go what its blocks will ask for."""
        self.document = document
        blocks = [block for block in blocks if block.num_keys]
        if blocks and self.encode is not None:
            self._fill("query", [target - 1 for block in blocks for target in block.targets])
            self._fill("key", range(max(block.num_keys for block in blocks)))

    def select(
        self, block: Block, targets: Sequence[int], query: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(indices, scores), both (n_target, k) on the CPU, as `retrieval_srlm` describes them.

        `query`: tokens (n,) that ask for the one target in place of the chunk before it.
        """
        k = self.config.key_num
        if self.config.retrieval_method != "oracle":
            return top_k(self._relevance(block, targets, query), k)
        if self.config.oracle_search == "greedy" and k > 1:
            return best_sets(self.plan, self.document, block)
        return top_k(score_keys(self.plan, self.document, block, range(block.num_keys)), k)

    def _relevance(self, block: Block, targets: Sequence[int], query: torch.Tensor | None) -> torch.Tensor:
        return relevance(
            self.config.retrieval_method,
            [self.config.seed + target for target in targets],
            block.num_keys,
            bm25=lambda: self._bm25(block, targets, query),
            dense=lambda: self._dense(block, targets, query),
            fusion_constant=self.config.fusion_constant,
        )

    def _dense(self, block: Block, targets: Sequence[int], query: torch.Tensor | None) -> torch.Tensor:
        if query is None:
            queries = self._table("query").vectors[[target - 1 for target in targets]]
        else:
            queries = self.encode([query], self._roles[0])
        return dense_scores(queries, self._table("key").vectors[: block.num_keys])

    def _bm25(self, block: Block, targets: Sequence[int], query: torch.Tensor | None) -> torch.Tensor:
        if self.bm25_index is None or self.bm25_index.count < block.num_keys:
            # Of a document that is whole every chunk with a continuation may become a key of a later block.
            last = (len(self.document.tokens) + self.document.padding) // self.document.chunk_size - 1
            keys = self._chunks(range(max(last, block.num_keys)), self.key_width)
            self.bm25_index = Bm25Index(keys, self.config.bm25_k1, self.config.bm25_b)
        queries = self._chunks([target - 1 for target in targets], 1) if query is None else [query]
        return self.bm25_index.scores(queries, block.num_keys)

    def _table(self, role: str) -> ChunkTable:
        return self.tables["key" if self.one_role else role]

    def _fill(self, role: str, chunks: Iterable[int]) -> None:
        self._table(role).fill(chunks, partial(self._embed, role="key" if self.one_role else role))

    def _embed(self, chunks: list[int], role: str) -> torch.Tensor:
        return self.encode(self._chunks(chunks, self.key_width if role == "key" else 1), role)

    def _chunks(self, chunks: Sequence[int], width: int) -> list[torch.Tensor]:
        return [self.document.chunks(chunk, chunk + width) for chunk in chunks]


class StateSelector(KeySelector):
    """Of the method "self" where states are reused: embeddings are means of the hidden states that a stream gives.

    A query of `select` is such a mean (d,), too.
    """

    def __init__(self, plan: Plan):
        super().__init__(plan)
        self.means = torch.empty(0, 0)
        self.count = 0

    def copy(self) -> "StateSelector":
        """See `KeySelector.copy`."""
        other = StateSelector(self.plan)
        other.means, other.count = self.means.clone(), self.count
        return other

    def learn(self, states: torch.Tensor) -> None:
        """The last hidden states (C, d) of the next chunk."""
        mean = states.detach().float().mean(dim=0).cpu()
        if self.count == len(self.means):
            grown = mean.new_zeros(max(2 * self.count, 64), len(mean))
            grown[: self.count] = self.means[: self.count] if self.count else 0
            self.means = grown
        self.means[self.count] = mean
        self.count += 1

    def forget(self, count: int) -> None:
        """Keeps the first `count` chunks."""
        self.count = min(self.count, count)

    def mean_with(self, states: torch.Tensor) -> torch.Tensor:
        """(d,) mean over a chunk's length of the states (n, d) that begin the next chunk, and the last chunk's mean
        in place of the tokens that are missing."""
        share = len(states) / self.config.chunk_size
        return states.detach().float().mean(dim=0).cpu() * share + self.means[self.count - 1] * (1 - share)

    def _dense(self, block: Block, targets: Sequence[int], query: torch.Tensor | None) -> torch.Tensor:
        keys = self.means[: block.num_keys]
        if self.key_width == 2:
            keys = keys + self.means[1 : block.num_keys + 1]
        queries = self.means[[target - 1 for target in targets]] if query is None else query[None]
        normalize = torch.nn.functional.normalize
        return dense_scores(normalize(queries, dim=-1), normalize(keys, dim=-1))


def make_selector(plan: Plan) -> KeySelector:
    """The selector of one document."""
    states = plan.config.reuse_states and plan.config.retrieval_method == "self"
    return StateSelector(plan) if states else KeySelector(plan)
