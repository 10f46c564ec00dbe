"""The losses of LLaRA as pure functions over tensors (Llama2Vec, arXiv 2312.15503, section 3)."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORED_LABEL = -100
CHUNK_SIZE = 256  # label rows whose logits exist at one time

Head = Callable[[torch.Tensor], torch.Tensor]  # (N, d) hidden states to (N, V) logits


def autoregressive_loss(
    hidden_states: torch.Tensor, labels: torch.Tensor, head: Head, chunk_size: int = CHUNK_SIZE
) -> torch.Tensor:
    """Mean next-token cross entropy over the labelled tokens; logits exist for `chunk_size` of them at a time.

    The gradient is exact. Under a plain float32 linear layer each chunk's share of it is made along with the loss
    (torch's `linear_cross_entropy`, which allows one backward pass); under any other head its logits are made anew in
    the backward pass (activation checkpointing).

    Args:
        hidden_states: (B, L, d) last hidden states. labels: (B, L), -100 where nothing is predicted.
        head: maps (N, d) hidden states to (N, V) logits.

    Returns: scalar float32; 0 (with a zero gradient) when no token is labelled.
    """
    labels = labels[:, 1:]  # the state at t predicts the token at t + 1
    labelled = labels != IGNORED_LABEL
    states, targets = hidden_states[:, :-1][labelled], labels[labelled]  # (N, d), (N,)
    total = states.sum(dtype=torch.float32) * 0.0
    if len(targets) and isinstance(head, nn.Linear) and is_plain(head, states):
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_size, chunking_method=None)
        total = functional.linear_cross_entropy(
            states, head.weight, targets, linear_bias=head.bias, reduction="sum", options=options
        ).float()
    else:
        for rows, row_targets in zip(states.split(chunk_size), targets.split(chunk_size), strict=True):
            total = total + checkpoint(_cross_entropy_sum, rows, row_targets, head, use_reentrant=False)
    return total / max(len(targets), 1)


def is_plain(head: nn.Linear, states: torch.Tensor) -> bool:
    """Whether a head is its weight and nothing else, so that a loss may read the weight in place of calling it.

    Adapters, quantisation and FSDP put another class in its place; DeepSpeed and accelerate bring the weight by hooks
    or by a forward of the module's own; autocast would multiply in another dtype. In half precision torch's function
    gives the sum in half precision, which is too coarse.
    """
    hooks = (*head._forward_pre_hooks, *head._forward_hooks, *head._backward_hooks, *head._backward_pre_hooks)
    called = type(head) is not nn.Linear or hooks or "forward" in vars(head)
    full = head.weight.dtype == states.dtype == torch.float32 and not torch.is_autocast_enabled(states.device.type)
    return full and not called


def _cross_entropy_sum(states: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
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


class LossWeighting(nn.Module):
    """Learned weights of the three losses, by homoscedastic uncertainty (arXiv 1705.07115, equation 10).

    The weighted loss is `sum_i exp(-s_i) * loss_i + s_i`, for s_i = log(variance_i / 2) twice the paper's
    `loss_i / variance_i + log(variance_i) / 2`, but for a constant. At its minimum over s_i each weight exp(-s_i) is
    1 / loss_i. The s_i are kept in float32: in half precision their small steps would be rounded away.

    Args:
        ar_weight, bow_weight: where training starts: the weights of `combine_losses` with both prompts.
    """

    def __init__(self, ar_weight: float, bow_weight: float) -> None:
        super().__init__()
        self.start = [-math.log(weight) for weight in (ar_weight, bow_weight / 2, bow_weight / 2)]
        self.log_variances = nn.Parameter(torch.tensor(self.start))  # s of ar, summarize and predict, (3,)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Put the weights back to where training starts."""
        self.log_variances.copy_(torch.tensor(self.start))

    def forward(self) -> torch.Tensor:
        """s, (3,) float32, in the order ar, summarize, predict."""
        return self.log_variances.float()


def weigh_by_uncertainty(losses: torch.Tensor, log_variances: torch.Tensor) -> torch.Tensor:
    """(n,) losses and their (n,) s -> (n,) terms of the weighted sum, `exp(-s) * loss + s`."""
    return (-log_variances).exp() * losses + log_variances
