"""Losses on closed forms."""

import math

import pytest
import torch

from modeling_biencoder import BiEncoderModel
from modeling_biencoder.loss_biencoder import (
    all_scores,
    contrastive_loss,
    distillation_loss,
    margin_mse_loss,
    own_columns,
    own_scores,
    pair_ranking_loss,
    ranked_distillation_loss,
)
from tests.support.tiny import tiny_backbone


@pytest.mark.parametrize(("queries", "group_size"), [(1, 1), (3, 1), (3, 4)])
def test_zero_embeddings_give_log_of_the_candidates(queries: int, group_size: int) -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone())
    zeros = torch.zeros(queries, 8), torch.zeros(queries * group_size, 8)
    in_batch = model.compute_loss(*zeros)
    assert in_batch.distillation_loss is None
    assert in_batch.loss.item() == pytest.approx(math.log(queries * group_size), abs=1e-6)
    if group_size == 1:  # a query with one passage and no others has nothing to choose from
        return
    own = model.compute_loss(*zeros, torch.randn(queries, group_size), in_batch_negatives=False)
    assert own.contrastive_loss.item() == pytest.approx(math.log(group_size), abs=1e-6)
    assert own.distillation_loss.item() == pytest.approx(math.log(group_size), abs=1e-6)
    assert own.loss.item() == pytest.approx(2 * math.log(group_size), abs=1e-6)


def test_contrastive_loss_of_two_candidates_is_softplus_of_their_difference() -> None:
    loss = contrastive_loss(torch.tensor([[3.0, 1.0]]), torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(2.0)), rel=1e-6)


def test_distillation_is_least_at_the_teacher_and_is_its_entropy_there() -> None:
    teacher = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]])
    at_teacher = distillation_loss(teacher + 7.0, teacher)  # a constant for a row changes nothing
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
    assert at_teacher.item() == pytest.approx(entropy.item(), rel=1e-6)
    assert distillation_loss(teacher.flip(1), teacher) > at_teacher + 0.1


def test_own_scores_are_the_own_columns_of_all_scores() -> None:
    queries, passages = torch.randn(3, 5), torch.randn(6, 5)
    columns = own_columns(all_scores(queries, passages, 0.1), torch.tensor([0, 2, 4]), 2)
    torch.testing.assert_close(own_scores(queries, passages, 0.1), columns)
    torch.testing.assert_close(columns[1, 1], queries[1] @ passages[3] / 0.1)


def test_unnormalised_embeddings_are_not_divided_by_the_temperature() -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone(), normalize=False, temperature=0.01)
    queries, passages = torch.randn(2, 4), torch.randn(2, 4)
    torch.testing.assert_close(model.compute_loss(queries, passages).scores, queries @ passages.T)
    model.config.normalize = True
    torch.testing.assert_close(model.compute_loss(queries, passages).scores, queries @ passages.T / 0.01)


def test_temperatures_of_the_distillation_are_those_of_scaled_scores() -> None:
    scores, teacher = torch.randn(3, 4), torch.randn(3, 4)
    expected = distillation_loss(scores / 2.0, teacher / 5.0)
    torch.testing.assert_close(distillation_loss(scores, teacher, 2.0, 5.0), expected)
    positives = torch.zeros(3, dtype=torch.long)
    ranked = ranked_distillation_loss(scores, teacher, positives, 2.0, 5.0)
    torch.testing.assert_close(ranked, ranked_distillation_loss(scores / 2.0, teacher / 5.0, positives))


@pytest.mark.parametrize("loss", [distillation_loss, lambda s, t: ranked_distillation_loss(s, t, torch.tensor([0]))])
def test_distillation_is_finite_for_any_scores(loss) -> None:
    scores = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = loss(scores, torch.tensor([[-1e4, 1e4, 0.0]]))
    value.backward()
    assert value.item() == pytest.approx(2e4, rel=1e-6)
    assert scores.grad.isfinite().all()


def test_ranked_distillation_is_the_sum_written_out() -> None:
    scores, teacher = torch.randn(2, 5, dtype=torch.double), torch.randn(2, 2, dtype=torch.double)
    positives = torch.tensor([0, 2])
    expected = 0.0
    for row in range(2):
        weights = teacher[row].softmax(0)
        own = [int(positives[row]) + i for i in range(2)]
        left = set(range(5))
        for i in teacher[row].argsort(descending=True).tolist():
            candidates = sorted(left)
            log_softmax = scores[row, candidates].log_softmax(0)
            expected -= weights[i] * log_softmax[candidates.index(own[i])] / 2
            left.remove(own[i])
    torch.testing.assert_close(ranked_distillation_loss(scores, teacher, positives), expected)


def test_ranked_distillation_of_a_sure_teacher_is_the_contrastive_loss() -> None:
    scores, positives = torch.randn(3, 6), torch.tensor([0, 2, 4])
    sure = torch.tensor([[200.0, 0.0]]).expand(3, 2)
    torch.testing.assert_close(
        ranked_distillation_loss(scores, sure, positives), contrastive_loss(scores, positives), rtol=1e-5, atol=1e-6
    )


def test_margin_mse_is_zero_at_the_margins_of_the_teacher_whatever_the_level() -> None:
    teacher = torch.tensor([[3.0, 1.0, 0.5]])
    assert margin_mse_loss(teacher - 7.0, teacher).item() == pytest.approx(0.0, abs=1e-10)
    assert margin_mse_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 1.0]]), 2.0).item() == pytest.approx(2.25)


def test_pair_ranking_of_two_rows_is_softplus_of_their_difference_and_zero_without_order() -> None:
    scores = torch.tensor([0.3, 1.0])
    assert pair_ranking_loss(scores, torch.tensor([5.0, 2.0])).item() == pytest.approx(math.log1p(math.exp(0.7)))
    assert pair_ranking_loss(scores, torch.tensor([2.0, 2.0])).item() == 0.0


def test_passages_left_out_take_no_part() -> None:
    scores = torch.tensor([[1.0, 9.0, 0.5]], requires_grad=True)
    loss = contrastive_loss(scores, torch.tensor([0]), torch.tensor([[False, True, False]]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5)), rel=1e-6)
    assert scores.grad[0, 1] == 0
    all_out = contrastive_loss(scores.detach(), torch.tensor([0]), torch.tensor([[False, True, True]]))
    assert all_out.item() == 0.0
