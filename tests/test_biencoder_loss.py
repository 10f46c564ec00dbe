"""Losses on closed forms, and two processes against one."""

import math
import tempfile
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from modeling_biencoder import BiEncoderModel
from modeling_biencoder.loss_biencoder import (
    all_scores,
    contrastive_loss,
    distillation_loss,
    own_columns,
    own_scores,
)
from tests.tiny import random_ids, tiny_backbone


@pytest.mark.parametrize(("queries", "group_size"), [(1, 1), (3, 1), (3, 4)])
def test_zero_embeddings_give_log_of_the_candidates(queries: int, group_size: int) -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone())
    zeros = torch.zeros(queries, 8), torch.zeros(queries * group_size, 8)
    in_batch = model.compute_loss(*zeros)
    own = model.compute_loss(*zeros, torch.randn(queries, group_size), in_batch_negatives=False)
    assert in_batch.loss.item() == pytest.approx(math.log(queries * group_size), abs=1e-6)
    assert in_batch.distillation_loss is None
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


def _gradients(rows: slice, in_batch: bool, distributed: bool) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients on `rows` of the joint batch: 5 queries with 3 passages each, and teacher scores."""
    queries, passages = random_ids(5, 6, seed=1), random_ids(15, 7, seed=2)
    teacher = torch.randn(5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    model = BiEncoderModel.from_backbone(tiny_backbone(seed=3), temperature=0.5).double()
    runner = DistributedDataParallel(model) if distributed else model  # a name: it must live until backward is done
    output = runner(
        query={"input_ids": queries[rows]},
        passage={"input_ids": passages[3 * rows.start : 3 * rows.stop]},
        teacher_scores=teacher[rows],
        in_batch_negatives=in_batch,
    )
    output.loss.backward()
    return output.loss.item(), [parameter.grad for parameter in model.parameters()]


# (first row of each process and the end, in_batch_negatives)
SHARES = [([0, 2, 4], True), ([0, 2, 5], True), ([0, 2, 4], False)]


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = [_gradients(slice(*cuts[rank : rank + 2]), in_batch, distributed=True) for cuts, in_batch in SHARES]
    torch.save(results, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_two_processes_give_the_loss_and_gradient_of_the_joint_batch() -> None:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_process, (folder,), nprocs=2)
        first, second = (torch.load(Path(folder, f"{rank}.pt")) for rank in range(2))
    for (cuts, in_batch), (loss0, gradients0), (loss1, gradients1) in zip(SHARES, first, second, strict=True):
        loss, expected = _gradients(slice(0, cuts[-1]), in_batch, distributed=False)
        assert all(gradient.abs().max() > 0 for gradient in expected)
        assert (loss0 + loss1) / 2 == pytest.approx(loss, rel=1e-9)
        torch.testing.assert_close(gradients0, expected, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(gradients1, expected, rtol=1e-5, atol=1e-8)
