"""Running assembled inputs through the language model, with logits only where a target is predicted."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .chunking_srlm import Block, Document, ModelInput, assemble


def run_inputs(
    language_model: nn.Module, inputs: list[ModelInput], batch_size: int
) -> Iterator[tuple[ModelInput, torch.Tensor]]:
    """Each input that has something to score, with its logits (m, V).

    Rows are padded on the right and nothing is masked: under causal attention what stands behind a scored position
    cannot change it, so neither can the rest of the batch.
    """
    inputs = [item for item in inputs if len(item.positions)]
    for start in range(0, len(inputs), batch_size):
        batch = inputs[start : start + batch_size]
        input_ids = nn.utils.rnn.pad_sequence([item.tokens for item in batch], batch_first=True)
        kept = torch.unique(torch.cat([item.positions for item in batch]))
        logits = language_model(input_ids=input_ids, logits_to_keep=kept, use_cache=False).logits
        for row, item in enumerate(batch):
            yield item, logits[row, torch.searchsorted(kept, item.positions)]


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(m,) negative log-likelihoods in nats, in float32, of (m, V) logits and (m,) labels."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


@torch.no_grad()
def score_keys(
    language_model: nn.Module,
    document: Document,
    block: Block,
    keys: list[int],
    config: Any,
    separator: torch.Tensor | None,
) -> torch.Tensor:
    """(n_target, n_key) log-likelihood of each target chunk when a single key's value is put into the input.

    [value | window] does not depend on the target, so one pass a key scores every target of the block.
    """
    replace = config.integrate_method == "replace"
    inputs = [
        assemble(document, block, column, (key,), list(block.targets), config.context_window_size, replace, separator)
        for column, key in enumerate(keys)
    ]
    scores = torch.zeros(len(block.targets), len(keys))
    for item, logits in run_inputs(language_model, inputs, config.chunk_batch_size):
        losses = token_losses(logits, document.labels[item.targets]).float().cpu()
        target = target_of_token(document, block, item.targets).cpu()
        scores[:, item.row].index_add_(0, target, -losses)
    return scores


def target_of_token(document: Document, block: Block, tokens: torch.Tensor) -> torch.Tensor:
    """The number, counted from the block's first target chunk, of the target chunk that each token index lies in."""
    return (tokens + document.padding) // document.chunk_size - block.first_target
