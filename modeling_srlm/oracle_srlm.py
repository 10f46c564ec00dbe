"""The oracle: which earlier chunks make a target most likely. An upper bound for retrieval, and its teacher."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .assembly_srlm import InputLayout, ModelInput
from .chunking_srlm import Block, Document
from .retrieval_srlm import arrange, top_k
from .scoring_srlm import evaluating, run_inputs, target_of_token, token_losses


def score_keys(
    language_model: nn.Module,
    document: Document,
    block: Block,
    config: Any,
    layout: InputLayout,
    keys: Sequence[int],
    retrieved: Sequence[int] = (),
    targets: Sequence[int] | None = None,
) -> torch.Tensor:
    """(n_target, n_key) log-likelihood of each target chunk when a key joins what is `retrieved` already.

    The input does not depend on the target, so one pass a key scores all `targets` (default: those of the block).
    """
    targets = list(block.targets if targets is None else targets)
    inputs = (
        layout.assemble(document, block, column, _order([*retrieved, key], config), targets)
        for column, key in enumerate(keys)
    )
    scores = torch.zeros(len(block.targets), len(keys))
    with evaluating(language_model):
        _add_likelihoods(language_model, document, block, inputs, config.chunk_batch_size, scores)
    return scores[[target - block.first_target for target in targets]]


def _order(keys: list[int], config: Any) -> tuple[int, ...]:
    return arrange(keys, config.order_method)


def _add_likelihoods(
    language_model: nn.Module,
    document: Document,
    block: Block,
    inputs: Iterable[ModelInput],
    batch_size: int,
    scores: torch.Tensor,
) -> None:
    for item, logits in run_inputs(language_model, inputs, batch_size):
        losses = token_losses(logits, document.labels[item.targets]).float().cpu()
        scores[:, item.row].index_add_(0, target_of_token(document, block, item.targets).cpu(), -losses)


def best_sets(
    language_model: nn.Module, document: Document, block: Block, config: Any, layout: InputLayout
) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices, scores), both (n_target, k): for each target the best key, then the key that helps most beside it, ...

    A key's score is the target's log-likelihood with the set up to that key. A further key joins only where it raises
    that. Targets that have chosen the same set so far share their passes.
    """
    keys = list(range(block.num_keys))
    indices, scores = top_k(score_keys(language_model, document, block, config, layout, keys), config.key_num)
    indices[:, 1:], scores[:, 1:] = -1, float("-inf")
    for rank in range(1, config.key_num):
        sets: dict[tuple[int, ...], list[int]] = {}
        for row, chosen in enumerate(indices[:, :rank].tolist()):
            if chosen[-1] >= 0:
                sets.setdefault(tuple(chosen), []).append(row)
        for chosen, rows in sets.items():
            others = [key for key in keys if key not in chosen]
            targets = [block.first_target + row for row in rows]
            found = score_keys(language_model, document, block, config, layout, others, chosen, targets)
            _join(indices, scores, rank, rows, others, found)
    return indices, scores


def _join(
    indices: torch.Tensor, scores: torch.Tensor, rank: int, rows: list[int], keys: list[int], found: torch.Tensor
) -> None:
    """Writes the best of `keys` into column `rank` of the rows that it helps."""
    for row, likelihoods in zip(rows, found, strict=True):
        if len(keys) and likelihoods.max() > scores[row, rank - 1]:
            indices[row, rank], scores[row, rank] = keys[int(likelihoods.argmax())], likelihoods.max()
