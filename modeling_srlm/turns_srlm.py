"""Which turns of a conversation are relevant to a query, by the same methods as chunks of a document."""

from typing import TYPE_CHECKING

import torch

from .bm25_srlm import Bm25Index
from .configuration_srlm import RETRIEVER_METHODS
from .encoding_srlm import embed_role
from .planning_srlm import self_encoder
from .retrieval_srlm import dense_scores, relevance
from .tokenizers_srlm import text_ids

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM


def turn_scores(model: "SelfRetrievalLM", query: str, turns: list[str], seed: int) -> torch.Tensor:
    """(n_turn,) relevance of each turn to the query by the model's method (not `oracle`); empty for `no`."""
    config = model.config
    scores = relevance(
        config.retrieval_method,
        [seed],
        len(turns),
        bm25=lambda: _bm25(model, query, turns),
        dense=lambda: dense_scores(*_embed(model, query, turns)),
        fusion_constant=config.fusion_constant,
    )
    return scores[0]


def _token_ids(model: "SelfRetrievalLM", texts: list[str]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.long) for row in text_ids(model.tokenizer, texts)]


def _bm25(model: "SelfRetrievalLM", query: str, turns: list[str]) -> torch.Tensor:
    query_ids, *turn_ids = _token_ids(model, [query, *turns])
    return Bm25Index(turn_ids, model.config.bm25_k1, model.config.bm25_b).scores([query_ids])


def _embed(model: "SelfRetrievalLM", query: str, turns: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, d) and (n_turn, d)."""
    config = model.config
    if config.retrieval_method in RETRIEVER_METHODS:
        queries = embed_role(model.retriever, [query], "query", config.instruction)
        return queries, embed_role(model.retriever, turns, "key", config.instruction)
    room = config.context_window_size  # of a turn that is longer the beginning counts
    ids = [row[:room].to(model.device) for row in _token_ids(model, [query, *turns])]
    states = self_encoder(model)(ids, "key")
    return states[:1], states[1:]
