"""How likely a target is under a key whose text is read before the window: the oracle, a bound for retrieval."""

from collections.abc import Iterable, Sequence

import torch

from .assembly_srlm import ModelInput
from .chunking_srlm import Block, Document
from .planning_srlm import Plan
from .retrieval_srlm import arrange, top_k
from .scoring_srlm import evaluating, run_inputs, target_of_token, token_losses


def score_keys(
    plan: Plan,
    document: Document,
    block: Block,
    keys: Sequence[int],
    retrieved: Sequence[int] = (),
    targets: Sequence[int] | None = None,
) -> torch.Tensor:
    """(n_target, n_key) log-likelihood of each target chunk when a key joins what is `retrieved` already.

    The input does not depend on the target, so one pass a key scores all `targets` (default: those of the block).
    """
    targets = list(block.targets if targets is None else targets)
    order = plan.config.order_method
    inputs = (
        plan.layout.assemble(document, block, column, arrange([*retrieved, key], order), targets)
        for column, key in enumerate(keys)
    )
    scores = torch.zeros(len(block.targets), len(keys))
    with evaluating(plan.language_model):
        _add_likelihoods(plan, document, block, inputs, scores)
    return scores[[target - block.first_target for target in targets]]


def _add_likelihoods(
    plan: Plan, document: Document, block: Block, inputs: Iterable[ModelInput], scores: torch.Tensor
) -> None:
    for item, logits in run_inputs(plan.language_model, inputs, plan.config.chunk_batch_size):
        losses = token_losses(logits, document.labels[item.targets]).float().cpu()
        scores[:, item.row].index_add_(0, target_of_token(document, block, item.targets).cpu(), -losses)


def best_sets(plan: Plan, document: Document, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices, scores), both (n_target, k): for each target the best key, then the key that helps most beside it, ...

    A key's score is the target's log-likelihood with the set up to that key. A further key joins only where it raises
    that. Targets that have chosen the same set so far share their passes.
    """
    keys, k = range(block.num_keys), plan.config.key_num
    indices, scores = top_k(score_keys(plan, document, block, keys), k)
    indices[:, 1:], scores[:, 1:] = -1, float("-inf")
    for rank in range(1, k):
        sets: dict[tuple[int, ...], list[int]] = {}
        for row, chosen in enumerate(indices[:, :rank].tolist()):
            if chosen[-1] >= 0:
                sets.setdefault(tuple(chosen), []).append(row)
        for chosen, rows in sets.items():
            others = [key for key in keys if key not in chosen]
            targets = [block.first_target + row for row in rows]
            found = score_keys(plan, document, block, others, chosen, targets)
            _join(indices, scores, rank, rows, others, found)
    return indices, scores


def _join(
    indices: torch.Tensor, scores: torch.Tensor, rank: int, rows: list[int], keys: list[int], found: torch.Tensor
) -> None:
    """Writes the best of `keys` into column `rank` of the rows that it helps."""
    for row, likelihoods in zip(rows, found, strict=True):
        if len(keys) and likelihoods.max() > scores[row, rank - 1]:
            indices[row, rank], scores[row, rank] = keys[int(likelihoods.argmax())], likelihoods.max()
