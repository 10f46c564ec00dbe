"""Perplexity of a self-retrieval LM on documents or chats, one retrieval method beside the other.

Where several processes run, each scores its share, and all have the result.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import datasets
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from modeling_srlm import SelfRetrievalLM, SelfRetrievalOutput
from modeling_srlm.tokenizers_srlm import text_ids

from ..jobs.processes import place, shared
from ..models.components import check_retriever

Batch = TypeVar("Batch")


class MethodResult(NamedTuple):
    """What one retrieval method gave: a perplexity, and the forward output of each document or batch of chats."""

    method: str
    perplexity: float
    outputs: list[SelfRetrievalOutput]


def compare_methods(
    model: SelfRetrievalLM, documents: Sequence[torch.Tensor], methods: Sequence[str], scored_tokens: int | None = None
) -> list[MethodResult]:
    """The perplexity of the documents under each method, the model's own setting restored afterwards.

    Args:
        documents: (length,) token ids each.
        scored_tokens: score the last so many tokens of each document; None scores all of it.

    Perplexity is exp of the mean loss of all scored tokens, as `compute_perplexity` has it.
    Raises ValueError for an unknown method or no documents, before any compute.
    """
    _check_size("scored_tokens", scored_tokens)

    def score(tokens: torch.Tensor) -> tuple[SelfRetrievalOutput, int]:
        return _score(model, tokens, scored_tokens), 1

    return _compare(model, documents, methods, score, unit="document", total=len(documents))


def compare_chats(
    model: SelfRetrievalLM, chats: datasets.Dataset, methods: Sequence[str], batch_size: int = 8
) -> list[MethodResult]:
    """The perplexity of the chats' answers under each method, the model's own setting restored afterwards.

    Args:
        chats: rows with `query`, `history` and `answer`, as `srlm.rows.load_chats` gives them.
        batch_size: rows that go through `forward_with_history_retrieval` at once. It does not change the result.

    Perplexity is exp of the mean loss of all scored tokens. The outputs are one a batch, rows in order.
    Raises ValueError for an unknown method, no rows or a batch size below 1, before any compute.
    """
    _check_size("batch_size", batch_size)

    def score(batch: dict[str, list[Any]]) -> tuple[SelfRetrievalOutput, int]:
        output = model.forward_with_history_retrieval(batch["query"], batch["history"], batch["answer"])
        return output, len(batch["query"])

    batches = [chats[start : start + batch_size] for start in range(0, len(chats), batch_size)]
    return _compare(model, batches, methods, score, unit="row", total=len(chats))


def _compare(
    model: SelfRetrievalLM,
    batches: Sequence[Batch],
    methods: Sequence[str],
    score: Callable[[Batch], tuple[SelfRetrievalOutput, int]],
    unit: str,
    total: int,
) -> list[MethodResult]:
    """`score` gives a batch's output and how many rows it has."""
    configured = model.config.retrieval_method
    try:
        for method in methods:
            _check_method(model, method)
        if not total:
            raise ValueError(f"There are no {unit}s, and perplexity needs at least one: give more data.")
        model.eval()
        shown = {"desc": "Perplexity", "unit": unit, "disable": place()[0] > 0}
        with tqdm(total=total * len(methods), **shown) as progress, torch.no_grad():
            return [_run_method(model, method, batches, score, progress) for method in methods]
    finally:
        model.config.retrieval_method = configured


def _check_method(model: SelfRetrievalLM, method: str) -> None:
    model.config.retrieval_method = method
    model.config.check()
    check_retriever(method, model.retriever is not None)


def _run_method(
    model: SelfRetrievalLM,
    method: str,
    batches: Sequence[Batch],
    score: Callable[[Batch], tuple[SelfRetrievalOutput, int]],
    progress: tqdm,
) -> MethodResult:
    model.config.retrieval_method = method
    progress.set_postfix_str(method)

    def scored(batch: Batch) -> SelfRetrievalOutput:
        output, rows = score(batch)
        progress.update(min(rows * place()[1], progress.total - progress.n))  # the others do as many meanwhile
        return _on_cpu(output)

    outputs = shared(batches, scored)
    strange = [loss for output in outputs if not math.isfinite(loss := output["loss"].item())]
    if strange:
        raise ValueError(
            f"the loss by {method!r} is {strange[0]}: the model's weights are damaged, or its precision too small."
        )
    total = sum(output["loss"].double().item() * output["num_scored_tokens"] for output in outputs)
    return MethodResult(method, math.exp(total / sum(output["num_scored_tokens"] for output in outputs)), outputs)


def _on_cpu(output: SelfRetrievalOutput) -> SelfRetrievalOutput:
    fields: dict[str, Any] = {
        name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in output.items()
    }
    return SelfRetrievalOutput(**fields)


def _score(model: SelfRetrievalLM, tokens: torch.Tensor, scored_tokens: int | None) -> SelfRetrievalOutput:
    input_ids = tokens[None].to(model.device)
    labels = input_ids.clone()
    if scored_tokens is not None:
        labels[:, :-scored_tokens] = -100
    return model(input_ids, labels=labels, show_progress=place()[0] == 0)


def _check_size(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name}={value} must be at least 1: raise it, or leave it out.")


def tokenize_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[torch.Tensor]:
    """Token ids of each text that has at least two tokens, which is what it takes to predict one."""
    ids = text_ids(tokenizer, texts)
    return [torch.tensor(row) for row in ids if len(row) > 1]


def count_scored(results: Sequence[MethodResult]) -> int:
    """Tokens that each method scored: the same for all of them."""
    return sum(output.num_scored_tokens or 0 for output in results[0].outputs)


def format_results(results: Sequence[MethodResult]) -> str:
    """A table of methods, perplexities and their difference from the first method's."""
    lines = [f"{'retrieval':<12}{'perplexity':>12}{'change':>10}"]
    for result in results:
        change = result.perplexity / results[0].perplexity - 1
        lines.append(f"{result.method:<12}{result.perplexity:>12.3f}{change:>10.1%}")
    return "\n".join(lines)
