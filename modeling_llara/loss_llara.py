"""The losses of LLaRA as pure functions over tensors (Llama2Vec, arXiv 2312.15503, section 3)."""

from collections.abc import Callable

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORED_LABEL = -100
CHUNK_SIZE = 256  # label rows whose logits exist at one time


def autoregressive_loss(
    hidden_states: torch.Tensor,
    labels: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    chunk_size: int = CHUNK_SIZE,
) -> torch.Tensor:
    """Mean next-token cross entropy over the labelled tokens; logits exist for `chunk_size` of them at a time.

    Each chunk's logits are made anew in the backward pass (activation checkpointing), so the gradient is exact.

    Args:
        hidden_states: (B, L, d) last hidden states. labels: (B, L), -100 where nothing is predicted.
        head: maps (N, d) hidden states to (N, V) logits.

    Returns: scalar float32; 0 (with a zero gradient) when no token is labelled.
    """
    labels = labels[:, 1:]  # the state at t predicts the token at t + 1
    labelled = labels != IGNORED_LABEL
    states, targets = hidden_states[:, :-1][labelled], labels[labelled]  # (N, d), (N,)
    total = hidden_states.sum(dtype=torch.float32) * 0.0
    for rows, row_targets in zip(states.split(chunk_size), targets.split(chunk_size), strict=True):
        total = total + checkpoint(_cross_entropy_sum, rows, row_targets, head, use_reentrant=False)
    return total / max(len(targets), 1)


def _cross_entropy_sum(
    states: torch.Tensor, targets: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    return functional.cross_entropy(head(states).float(), targets, reduction="sum")


def bag_of_words_loss(
    logits: torch.Tensor, target_ids: torch.Tensor, ignored_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How badly a prompt's special tokens, taken together, predict the set of words of a text.

    `-1/|T| sum_{t in T} log softmax(max over the tokens of logits)[t]`, averaged over the rows whose set T of
    distinct target ids is not empty.

    Args:
        logits: (B, n, V) at the n special tokens of each row.
        target_ids: (B, T) in any order, repeats allowed; negative ids are padding.
        ignored_ids: (I,) ids that are never targets.

    Returns: the loss, a scalar float32, 0 when no row has a target; and the number of rows that have one, a scalar.
    """
    words = logits.float().amax(1).log_softmax(-1)  # (B, V)
    is_target = word_sets(target_ids, ignored_ids, words.shape[-1])
    sizes = is_target.sum(1)  # (B,)
    row_losses = -words.masked_fill(~is_target, 0.0).sum(1) / sizes.clamp(min=1)
    num_rows = (sizes > 0).sum()
    return row_losses.sum() / num_rows.clamp(min=1), num_rows


def word_sets(target_ids: torch.Tensor, ignored_ids: torch.Tensor, vocabulary_size: int) -> torch.Tensor:
    """(B, V) bool: which ids are targets of each row, given (B, T) target ids and (I,) ids to leave out."""
    # One more column takes the padding, and is cut off.
    ids = target_ids.masked_fill(target_ids < 0, vocabulary_size)
    is_target = torch.zeros(len(ids), vocabulary_size + 1, dtype=torch.bool, device=ids.device)
    is_target.scatter_(1, ids, True)
    return is_target.index_fill(1, ignored_ids, False)[:, :vocabulary_size]


def combine_losses(
    ar_loss: torch.Tensor | None,
    bag_of_words: list[tuple[torch.Tensor, torch.Tensor]],
    ar_weight: float,
    bow_weight: float,
) -> torch.Tensor | None:
    """`ar_weight * ar + bow_weight * mean(bag-of-words losses that have rows)`; None when nothing was asked for.

    Args:
        bag_of_words: (loss, number of rows with a target) for each prompt, as `bag_of_words_loss` returns them.
    """
    loss = None if ar_loss is None else ar_weight * ar_loss
    if bag_of_words:
        total = torch.stack([part for part, _ in bag_of_words]).sum()
        parts = (torch.stack([rows for _, rows in bag_of_words]) > 0).sum()
        words = bow_weight * total / parts.clamp(min=1)
        loss = words if loss is None else loss + words
    return loss
