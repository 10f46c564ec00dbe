"""Perplexity of a self-retrieval LM on whole documents, one retrieval method beside the other."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from modeling_srlm import SelfRetrievalLM, SelfRetrievalOutput


class MethodResult(NamedTuple):
    """What one retrieval method gave: a perplexity, and the forward output of each document."""

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

    Perplexity is exp of the mean over documents of the document's mean token loss, as `compute_perplexity` has it.
    Raises ValueError for an unknown method or no documents, before any compute.
    """
    configured = model.config.retrieval_method
    try:
        for method in methods:
            model.config.retrieval_method = method
            model.config.check()
        if not documents:
            raise ValueError("there are no documents; perplexity needs at least one.")
        return _compare(model, documents, methods, scored_tokens)
    finally:
        model.config.retrieval_method = configured


@torch.no_grad()
def _compare(
    model: SelfRetrievalLM, documents: Sequence[torch.Tensor], methods: Sequence[str], scored_tokens: int | None
) -> list[MethodResult]:
    model.eval()
    results = []
    with tqdm(total=len(documents) * len(methods), desc="Perplexity", unit="document") as progress:
        for method in methods:
            model.config.retrieval_method = method
            outputs = []
            for tokens in documents:
                progress.set_postfix_str(method)
                outputs.append(_score(model, tokens, scored_tokens))
                progress.update()
            mean = sum(output["loss"].item() for output in outputs) / len(outputs)
            results.append(MethodResult(method, math.exp(mean), outputs))
    return results


def _score(model: SelfRetrievalLM, tokens: torch.Tensor, scored_tokens: int | None) -> SelfRetrievalOutput:
    input_ids = tokens[None].to(model.device)
    labels = input_ids.clone()
    if scored_tokens is not None:
        labels[:, :-scored_tokens] = -100
    return model(input_ids, labels=labels)


def tokenize_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[torch.Tensor]:
    """Token ids of each text that has at least two tokens, which is what it takes to predict one."""
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [torch.tensor(row) for row in ids if len(row) > 1]


def format_results(results: Sequence[MethodResult]) -> str:
    """A table of methods, perplexities and their difference from the first method's."""
    lines = [f"{'retrieval':<12}{'perplexity':>12}{'change':>10}"]
    for result in results:
        change = result.perplexity / results[0].perplexity - 1
        lines.append(f"{result.method:<12}{result.perplexity:>12.3f}{change:>10.1%}")
    return "\n".join(lines)
