"""The work of mining and who does it: one process, those of one launcher, or all who claim shards of it."""

from functools import cache
from typing import Any, NamedTuple, cast

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from modeling_biencoder import BiEncoderModel

from ..jobs.parts import PartFiles
from ..jobs.processes import on_main_process
from ..jobs.shards import Shards
from ..retrieval.embeddings import EmbeddingFiles, check_embeddings
from ..retrieval.pieces import Pieces
from .corpus import Corpus
from .retrievers import BM25Retriever, DenseRetriever, FusedRetriever, Retriever
from .rows import QueryRows, RowMiner
from .settings import MiningSettings


class MiningWork(NamedTuple):
    """Rows in groups, numbered from 0, for which negatives are wanted; what comes out does not depend on who does it.

    Args:
        model: None for BM25 alone.
        state: of the processes; None is this one alone.
    """

    rows: QueryRows
    corpus: Corpus
    model: BiEncoderModel | None
    settings: MiningSettings
    state: PartialState | None
    show_progress: bool

    @property
    def num_groups(self) -> int:
        return -(-len(self.rows) // self.settings.block_size)

    def embedded(self) -> torch.Tensor | None:
        """(passages, d) of the corpus, in memory; None for BM25 alone."""
        if self.model is None:
            return None
        texts, size = self.corpus.texts, self.settings.batch_size
        task, show = self.settings.task, self.show_progress
        found = self.model.encode(texts, "passage", task, batch_size=size, show_progress=show)
        return check_embeddings(found, len(texts))

    def miner(self, embedded: torch.Tensor | Pieces | None) -> RowMiner:
        """What mines a group; the embeddings are those of the corpus."""
        return RowMiner(self.rows, self.corpus, self._retriever(embedded), self.settings)

    def _retriever(self, embedded: torch.Tensor | Pieces | None) -> Retriever:
        corpus, settings, show = self.corpus, self.settings, self.show_progress
        if self.model is None or embedded is None:
            return BM25Retriever(corpus, show)
        dense = DenseRetriever(self.model, corpus, embedded, settings.index, settings.task, settings.batch_size)
        return dense if settings.retriever == "dense" else FusedRetriever(BM25Retriever(corpus, show), dense)

    def share(self, parts: PartFiles, run: dict[str, Any], overwrite: bool) -> tuple[int, int]:
        """The processes of one launcher write the rows; their number, and that of the groups of an earlier run."""
        state, settings = cast(PartialState, self.state), self.settings
        done = on_main_process(state, lambda: parts.open(run, overwrite))
        if left := [group for group in range(self.num_groups) if group not in done]:
            embedded = None
            if self.model is not None:
                files = EmbeddingFiles(parts.folder, self.corpus.texts, settings.batch_size)
                files.fill(self.model, settings.task, state.process_index, state.num_processes)
                state.wait_for_everyone()
                embedded = files.pieces(self.model.config.hidden_size)
            miner, share = self.miner(embedded), left[state.process_index :: state.num_processes]
            described = f"Mining, process 1 of {state.num_processes}"
            for group in tqdm(share, desc=described, unit="group", disable=not self.show_progress):
                parts.append(state.process_index, group, miner.mine(group))
        state.wait_for_everyone()
        return on_main_process(state, lambda: parts.join(self.num_groups)), len(done)

    def share_in_shards(self, shards: Shards, run: dict[str, Any]) -> int:
        """The rows are written by all who started the same; their number."""
        shards.check(self.num_groups)
        shards.open(run)
        embedded = self._embed_in_shards(shards)
        miner = cache(lambda: self.miner(embedded))  # once there is something left to mine
        described = "Mining" if self.show_progress else None
        count = shards.write_rows(self.num_groups, lambda group: miner().mine(group), described)
        shards.remove()
        return count

    def _embed_in_shards(self, shards: Shards) -> Pieces | None:
        if (model := self.model) is None:
            return None
        files = EmbeddingFiles(shards.folder, self.corpus.texts, self.settings.batch_size)

        def write(part: int) -> None:
            with shards.whole(files.path(part)) as new:
                files.write(part, new, model, self.settings.task)

        paths = [files.path(part) for part in range(len(files.parts))]
        shards.share(paths, write, "Encoding" if self.show_progress else None)
        return files.pieces(model.config.hidden_size)
