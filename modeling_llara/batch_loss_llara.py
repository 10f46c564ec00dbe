"""From a batch's hidden states to its losses: each that was asked for, and their weighted sum."""

from typing import Any

import torch

from .configuration_llara import LlaraConfig
from .loss_llara import (
    IGNORED_LABEL,
    Head,
    LossWeighting,
    autoregressive_loss,
    bag_of_words_loss,
    combine_losses,
    weigh_by_uncertainty,
)
from .masking_llara import Span

Losses = dict[str, Any]  # scalars, by the names of LlaraOutput


def batch_losses(
    states: torch.Tensor,
    labels: torch.Tensor | None,
    spans: dict[str, Span],
    targets: dict[str, torch.Tensor | None],
    head: Head,
    config: LlaraConfig,
    weighting: LossWeighting | None,
) -> Losses:
    """{name: loss} of all that `labels` and `targets` ask for, their weighted `loss`, and the learned weights if any.

    Args:
        states: (B, L, d) last hidden states.
        spans: where the "summarize" and the "predict" prompt are.
        targets: {"output_summarize_ids": (B, T), "output_predict_ids": (B, T)}, or None.
        head: hidden states to logits.
        weighting: the learned weights; None for those of the configuration.
    """
    losses: Losses = {}
    if labels is not None:
        losses["ar_loss"] = autoregressive_loss(states, labels.long(), head)
    counts = {"summarize": config.num_summary_tokens, "predict": config.num_predict_tokens}
    ignored = torch.tensor(config.ignored_target_ids, dtype=torch.long, device=states.device)
    rows = {}  # how many have a target, for each prompt
    for name, span in spans.items():
        ids = targets[f"output_{name}_ids"]
        if ids is not None:
            indices = span.special_token_indices(counts[name])  # (B, n)
            special = states.gather(1, indices[..., None].expand(-1, -1, states.shape[-1]))  # (B, n, d)
            losses[f"bow_{name}_loss"], rows[name] = bag_of_words_loss(head(special), ids.long(), ignored)
    if weighting is not None:
        return losses | _weigh(losses, labels, rows, weighting)
    words = [(losses[f"bow_{name}_loss"], count) for name, count in rows.items()]
    return losses | {
        "loss": combine_losses(losses.get("ar_loss"), words, config.ar_loss_weight, config.bow_loss_weight)
    }


def _weigh(
    losses: Losses, labels: torch.Tensor | None, rows: dict[str, torch.Tensor], weighting: LossWeighting
) -> Losses:
    log_variances = weighting()
    tokens = None if labels is None else (labels[:, 1:] != IGNORED_LABEL).sum()
    parts = [
        (losses.get("ar_loss"), tokens),
        (losses.get("bow_summarize_loss"), rows.get("summarize")),
        (losses.get("bow_predict_loss"), rows.get("predict")),
    ]
    terms = [
        weigh_by_uncertainty(loss, log_variance.to(loss.device)) * (count > 0)  # a loss over nothing has no term
        for (loss, count), log_variance in zip(parts, log_variances, strict=True)
        if loss is not None and count is not None
    ]
    return {"log_variances": log_variances, "loss": torch.stack(terms).sum() if terms else None}
