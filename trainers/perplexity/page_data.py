"""The data behind the page of `page.render_report`: plain lists and texts, ready for JSON.

An item is a document, or all chat rows together. Of each target (a chunk; a chat row's answer) it holds the loss, the
retrieved sources (chunks; turns of the history) and their scores under each method; and every text that these need.
"""

import math
from collections.abc import Sequence
from typing import Any

import datasets
import torch

from hub_cards.transfer.folder_names import shared_name
from modeling_srlm import SelfRetrievalLM, SelfRetrievalOutput

from .chunks import chunk_texts, grid_start
from .data import TokenizedDocument
from .measure import MethodResult


def describe(name: str, model: SelfRetrievalLM, summary: str) -> list[tuple[str, str]]:
    """(name, value) pairs for the head of the page: what was scored, with what, at which sizes."""
    return [("scored", summary), *describe_model(name, model)]


def describe_model(name: str, model: SelfRetrievalLM) -> list[tuple[str, str]]:
    """Those of any page about a model that looks back: its name, its sizes, and whether it keeps states."""
    config = model.config
    return [
        ("model", shared_name(name)), ("window", f"{config.context_window_size:,} tokens"),
        ("chunk", f"{config.chunk_size:,} tokens"), ("retrieved for a target", f"up to {config.key_num}"),
        *([("states", f"kept (reuse_states), {config.num_sink_tokens} sink tokens")] if config.reuse_states else []),
    ]  # fmt: skip


def document_page(
    model: SelfRetrievalLM,
    documents: Sequence[TokenizedDocument],
    results: Sequence[MethodResult],
    settings: list[tuple[str, str]],
) -> dict[str, Any]:
    """The page's data for the documents that `compare_methods` scored, in its order.

    Args:
        settings: as [`describe`] gives them.
    """
    items = [
        _document_item(model, document, [result.outputs[number] for result in results])
        for number, document in enumerate(documents)
    ]
    return {"kind": "document", "chunk_size": model.config.chunk_size, **_head(results, settings), "items": items}


def chat_page(
    chats: datasets.Dataset, results: Sequence[MethodResult], settings: list[tuple[str, str]]
) -> dict[str, Any]:
    """The page's data for the rows that `compare_chats` scored."""
    numbers: dict[str, int] = {}  # rows of one conversation repeat its turns
    rows = [
        {
            "query": chat["query"],
            "answer": chat["answer"],
            "turns": [numbers.setdefault(turn, len(numbers)) for turn in chat["history"]],
        }
        for chat in chats
    ]
    runs = [
        {
            "perplexity": result.perplexity,
            "losses": _rounded(torch.cat([output["target_losses"][:, 0] for output in result.outputs])),
            **_sources(_join(result.outputs, "retrieved_indices"), _join(result.outputs, "retrieved_scores")),
        }
        for result in results
    ]
    item = {"name": "chats", "targets": list(range(len(rows))), "rows": rows, "texts": list(numbers), "runs": runs}
    return {"kind": "chat", **_head(results, settings), "items": [item]}


def _head(results: Sequence[MethodResult], settings: list[tuple[str, str]]) -> dict[str, Any]:
    methods = [{"name": result.method, "perplexity": result.perplexity} for result in results]
    return {"settings": settings, "methods": methods}


def _document_item(
    model: SelfRetrievalLM, document: TokenizedDocument, outputs: Sequence[SelfRetrievalOutput]
) -> dict[str, Any]:
    tokens = document.tokens.tolist()
    start = grid_start(model.config, tokens)
    every = chunk_texts(model.tokenizer, tokens, start, model.config.chunk_size)
    targets = outputs[0]["target_indices"][0].tolist()
    runs = [
        {
            "perplexity": math.exp(output["loss"].item()),
            "losses": _rounded(output["target_losses"][0]),
            **_sources(output["retrieved_indices"][0], output["retrieved_scores"][0]),
        }
        for output in outputs
    ]
    kept = [key for output in outputs for key in output["retrieved_indices"].unique().tolist() if key >= 0]
    shown = {chunk for target in targets for chunk in (target - 1, target)}  # the query chunk and the target
    shown |= {chunk for key in kept for chunk in (key, key + 1)}
    texts = {chunk: every[chunk] for chunk in sorted(shown) if 0 <= chunk < len(every)}
    return {
        "name": document.name, "tokens": len(tokens), "start": start, "targets": targets, "texts": texts, "runs": runs
    }  # fmt: skip


def _sources(indices: torch.Tensor, scores: torch.Tensor) -> dict[str, list[list[Any]]]:
    """What each target retrieved, from (n_target, k) tensors, without the places that hold nothing."""
    kept = [[rank for rank, index in enumerate(row) if index >= 0] for row in indices.tolist()]
    return {
        "sources": [[int(row[rank]) for rank in ranks] for row, ranks in zip(indices, kept, strict=True)],
        "scores": [[_short(row[rank]) for rank in ranks] for row, ranks in zip(scores.tolist(), kept, strict=True)],
    }


def _join(outputs: Sequence[SelfRetrievalOutput], name: str) -> torch.Tensor:
    """(rows, k) of the batches' (B, 1, k)."""
    return torch.cat([output[name][:, 0] for output in outputs])


def _rounded(losses: torch.Tensor) -> list[float | None]:
    """None for a target without scored tokens: JSON knows no NaN."""
    return [_short(loss) for loss in losses.tolist()]


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
