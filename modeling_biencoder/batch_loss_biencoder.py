"""From a batch's embeddings to its losses: scores, positives and false negatives, over all processes."""

from collections.abc import Mapping
from math import inf

import torch
from transformers.utils import logging

from .batch_inputs_biencoder import check_embeddings, check_group, check_teacher_scores, check_terms
from .checks_biencoder import check_bool
from .configuration_biencoder import BiEncoderConfig
from .false_negatives_biencoder import Identity, known_own_positives, known_positives, known_queries, too_similar
from .gather_biencoder import gather_sizes, is_distributed
from .joint_batch_biencoder import Batch, joint_batch, met_rows
from .loss_biencoder import (
    all_scores,
    contrastive_loss,
    distillation_loss,
    margin_mse_loss,
    own_columns,
    own_scores,
    pair_ranking_loss,
    ranked_distillation_loss,
    without_own,
)
from .objectives_biencoder import Objectives, loss_name

logger = logging.get_logger(__name__)


def weighted_loss(
    queries: torch.Tensor,
    passages: torch.Tensor,
    teacher_scores: torch.Tensor | None,
    in_batch_negatives: bool,
    identity: Mapping[str, torch.Tensor] | None,
    objectives: Objectives | None,
    config: BiEncoderConfig,
    counted: bool = True,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """(the loss, {name: its parts}, scores), as `BiEncoderModel.compute_loss` explains them."""
    check_embeddings(queries, passages)
    check_teacher_scores(teacher_scores, len(queries), check_group(len(queries), len(passages)), queries.device)
    check_bool("counted", counted)
    numbers = check_terms(in_batch_negatives, identity, objectives, len(queries), len(passages), queries.device)
    objectives = Objectives() if objectives is None else objectives
    across = config.negatives_cross_device and is_distributed()
    # Autocast would take the scores in half precision, and the temperature makes its rounding errors large.
    with torch.autocast(queries.device.type, enabled=False):
        batch = joint_batch(queries, passages, teacher_scores, numbers, across, in_batch_negatives, counted)
        losses, scores = batch_losses(batch, objectives, config, in_batch_negatives)
        weights = objectives.names(config.embedding_dims, queries.shape[1])
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
    return loss * batch.share * counted, losses, scores


def batch_losses(
    batch: Batch, objectives: Objectives, config: BiEncoderConfig, in_batch_negatives: bool
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """({name: loss}, scores at full width) of the objectives that the batch has what they need for, at each width."""
    full = batch.queries.shape[1]
    losses: dict[str, torch.Tensor] = {}
    scores = []
    for width in objectives.widths(config.embedding_dims, full):
        part = batch if width == full else batch.narrowed(width, config.normalize)
        compute = in_batch_losses if in_batch_negatives else own_losses
        found, found_scores = compute(part, objectives, config.score_temperature)
        losses |= {loss_name(name, width, full): loss for name, loss in found.items()}
        scores.append(found_scores)
    return losses, scores[0]


def own_losses(
    batch: Batch, objectives: Objectives, temperature: float
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """({name: loss}, (B, G) scores), each query with its own passages alone."""
    scores = own_scores(batch.queries, batch.passages, temperature)
    positives = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    identities = _identities(batch, objectives)
    known = known_own_positives(*identities) if identities else None
    left_out = _left_out(known, scores, positives, objectives, temperature)
    wanted = objectives.present(batch.group_size, False, batch.teacher_scores is not None)
    losses = _teacher_losses(batch, objectives, wanted, scores, scores, positives)
    if "contrastive_loss" in wanted:
        losses["contrastive_loss"] = contrastive_loss(scores, positives, left_out)
    if "pair_ranking_loss" in wanted:
        losses["pair_ranking_loss"] = _pair_ranking(scores, batch)
    return losses, scores


def _pair_ranking(scores: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Over the pairs of rows of all processes; (B, 1) scores."""
    labels: torch.Tensor = batch.teacher_scores  # type: ignore[assignment]  # the loss is not wanted without
    if batch.across_processes:
        sizes = gather_sizes(len(scores) * batch.counted, scores.device)
        scores, labels = met_rows(scores, sizes, batch.counted), met_rows(labels, sizes, batch.counted)
    return pair_ranking_loss(scores[:, 0], labels[:, 0])


def in_batch_losses(
    batch: Batch, objectives: Objectives, temperature: float
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """({name: loss}, (B, N) scores), each query with all passages that it meets."""
    scores = all_scores(batch.queries, batch.met_passages, temperature)
    if scores.shape[1] == 1:
        logger.warning_once(
            "A batch of one query with one passage has nothing to compare it with: its loss is 0, whatever the model. "
            "Give two queries a batch or more, or negatives."
        )
    numbers = torch.arange(len(scores), device=scores.device) + batch.first_query  # (B,) of the queries among all
    positives = numbers * batch.group_size
    wanted = objectives.present(batch.group_size, True, batch.teacher_scores is not None)
    own = own_columns(scores, positives, batch.group_size)
    identities = _identities(batch, objectives)
    known = known_positives(*identities, positives) if identities else None
    competing = scores if known is None else scores.masked_fill(without_own(known, positives, batch.group_size), -inf)
    losses = _teacher_losses(batch, objectives, wanted, own, competing, positives)
    if "contrastive_loss" in wanted:
        left_out = _left_out(known, scores, positives, objectives, temperature)
        losses["contrastive_loss"] = contrastive_loss(scores, positives, left_out)
    if "symmetric_loss" in wanted:
        answers = batch.passages[:: batch.group_size]  # (B, d) the positives
        reverse = all_scores(answers, batch.met_queries, temperature)
        known = known_queries(*identities, numbers) if identities else None
        left_out = _left_out(known, reverse, numbers, objectives, temperature)
        losses["symmetric_loss"] = contrastive_loss(reverse, numbers, left_out)
    return losses, scores


def _identities(batch: Batch, objectives: Objectives) -> tuple[Identity, Identity] | None:
    if not objectives.mask_false_negatives or batch.identity is None or batch.met_identity is None:
        return None
    return batch.identity, batch.met_identity


def _left_out(
    known: torch.Tensor | None,
    scores: torch.Tensor,
    own: torch.Tensor,
    objectives: Objectives,
    temperature: float,
) -> torch.Tensor | None:
    if objectives.false_negative_margin is None:
        return known
    margin, kind = objectives.false_negative_margin, objectives.false_negative_margin_kind
    similar = too_similar(scores, own, temperature, margin, kind)
    return similar if known is None else known | similar


def _teacher_losses(
    batch: Batch,
    objectives: Objectives,
    wanted: list[str],
    own: torch.Tensor,
    scores: torch.Tensor,
    positives: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The losses against teacher scores; `own` (B, G) of `scores` (B, N), in which the ranked form competes."""
    losses = {}
    teacher: torch.Tensor = batch.teacher_scores  # type: ignore[assignment]  # none is wanted without
    temperatures = (objectives.student_temperature, objectives.teacher_temperature)
    if "distillation_loss" in wanted:
        if objectives.distillation == "ranked":
            losses["distillation_loss"] = ranked_distillation_loss(scores, teacher, positives, *temperatures)
        else:
            losses["distillation_loss"] = distillation_loss(own, teacher, *temperatures)
    if "margin_mse_loss" in wanted:
        losses["margin_mse_loss"] = margin_mse_loss(own, teacher, objectives.teacher_temperature)
    return losses
