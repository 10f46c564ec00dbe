"""Which keys each target of a document retrieves, by the configured method."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from .chunking_srlm import Block, Document
from .retrieval_srlm import bm25_scores, dense_scores, random_scores, recent_scores, top_k
from .retriever_srlm import TextEncoder, encode_texts
from .scoring_srlm import score_keys


class KeySelector:
    """Selects keys for the blocks of one document; chunk embeddings are made once a document.

    Args:
        language_model: scores the keys for `oracle`.
        retriever, tokenizer: encode the decoded text of chunks for `dense`.
    """

    def __init__(
        self,
        config: Any,
        language_model: nn.Module,
        retriever: TextEncoder | None,
        tokenizer: PreTrainedTokenizerBase | None,
        separator: torch.Tensor | None,
    ):
        self.config = config
        self.language_model = language_model
        # Both are there where `dense` comes to them: the model checks it before any compute.
        self.retriever: Any = retriever
        self.tokenizer: Any = tokenizer
        self.separator = separator

    def select(self, document: Document, blocks: list[Block]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each block (indices, scores), both (n_target, k) on the CPU, as `retrieval_srlm` describes them."""
        embeddings = self._embed(document, blocks) if self.config.retrieval_method == "dense" else {}
        return [top_k(self._scores(document, block, embeddings), self.config.key_num) for block in blocks]

    def _scores(self, document: Document, block: Block, embeddings: dict[str, torch.Tensor]) -> torch.Tensor:
        method, num_queries = self.config.retrieval_method, len(block.targets)
        if method == "no" or not block.num_keys:
            return torch.empty(num_queries, 0)
        if method == "recent":
            return recent_scores(num_queries, block.num_keys)
        if method == "random":
            return random_scores(num_queries, block.num_keys, seed=self.config.seed + block.end)
        if method == "bm25":
            return self._bm25(document, block)
        if method == "dense":
            queries = embeddings["query"][[target - 1 for target in block.targets]]
            return dense_scores(queries, embeddings["key"][: block.num_keys])
        keys = list(range(block.num_keys))
        return score_keys(self.language_model, document, block, keys, self.config, self.separator)

    def _bm25(self, document: Document, block: Block) -> torch.Tensor:
        queries = [document.chunks(target - 1, target) for target in block.targets]
        width = 2 if self.config.add_key_continuation else 1
        keys = [document.chunks(key, key + width) for key in range(block.num_keys)]
        return bm25_scores(queries, keys, self.config.bm25_k1, self.config.bm25_b)

    def _embed(self, document: Document, blocks: list[Block]) -> dict[str, torch.Tensor]:
        """(n_chunk, d) embeddings by role; rows of chunks that no block needs stay zero."""
        num_keys = max((block.num_keys for block in blocks), default=0)
        if not num_keys:
            return {}
        width = 2 if self.config.add_key_continuation else 1
        queries = [target - 1 for block in blocks if block.num_keys for target in block.targets]
        keys = range(num_keys)
        return {
            "query": self._embed_chunks(document, queries, 1, "query"),
            "key": self._embed_chunks(document, keys, width, "key"),
        }

    def _embed_chunks(self, document: Document, chunks: Iterable[int], width: int, role: str) -> torch.Tensor:
        chunks = list(chunks)
        ids = [document.chunks(i, i + width).tolist() for i in chunks]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        vectors = embed_role(self.retriever, texts, role, self.config.instruction)
        return vectors.new_zeros(max(chunks) + 1, vectors.shape[1]).index_copy_(0, torch.tensor(chunks), vectors)


def embed_role(retriever: TextEncoder, texts: list[str], role: str, instruction: dict | None) -> torch.Tensor:
    """Embeddings (n, d) of texts that serve as "query" or as "key", each behind its instruction."""
    prefix = instruction[role] if instruction else ""
    return encode_texts(retriever, [prefix + text for text in texts], "query" if role == "query" else "passage")
