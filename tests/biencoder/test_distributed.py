"""Several gloo processes give the loss and the gradient of the joint batch."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from modeling_biencoder import BiEncoderModel, Objectives
from tests.support.tiny import random_ids, tiny_backbone

ALL = Objectives(symmetric_weight=0.5, margin_mse_weight=0.1, false_negative_margin=-0.3)
RANKED = Objectives(distillation="ranked", teacher_temperature=2.0)
# (first row of each process and the end, passages a query, in_batch_negatives, objectives, sub_batch_size)
CASES = {
    2: [
        ([0, 2, 4], 3, True, None, None),
        ([0, 2, 5], 2, True, ALL, None),
        ([0, 1, 5], 4, True, RANKED, 2),
        ([0, 2, 5], 3, False, RANKED, 3),
        ([0, 2, 5], 1, True, ALL, None),
        ([0, 2, 5], 1, False, None, None),  # scored pairs
    ],
    3: [
        ([0, 2, 4, 6], 3, True, None, None),
        ([0, 2, 3, 6], 2, True, ALL, 2),
        ([0, 1, 4, 6], 4, True, RANKED, None),
        ([0, 1, 4, 6], 4, False, None, None),
        ([0, 1, 3, 6], 1, False, None, None),
    ],
}


def _gradients(rows: slice, case: tuple, distributed: bool) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients on `rows` of the joint batch."""
    cuts, group_size, in_batch, objectives, sub_batch_size = case
    total, own = cuts[-1], slice(group_size * rows.start, group_size * rows.stop)
    queries, passages = random_ids(total, 6, seed=1), random_ids(total * group_size, 7, seed=2)
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(total, group_size, dtype=torch.double, generator=generator)
    # Passage 0 of the first process has the text of the last one's last positive; some rows know of more positives.
    numbers = torch.arange(1, total * group_size + 1)
    numbers[0] = numbers[-group_size]
    positives = torch.stack([numbers[::group_size], numbers[::group_size].roll(1) * (torch.arange(total) % 2)], dim=1)
    model = BiEncoderModel.from_backbone(tiny_backbone(seed=3), temperature=0.5, embedding_dims=[4]).double()
    runner = DistributedDataParallel(model) if distributed else model  # a name: it must live until backward is done
    output = runner(
        query={"input_ids": queries[rows]},
        passage={"input_ids": passages[own]},
        teacher_scores=teacher[rows],
        in_batch_negatives=in_batch,
        identity={"query": rows_numbers(total)[rows], "passage": numbers[own], "positives": positives[rows]},
        objectives=objectives,
        sub_batch_size=sub_batch_size,
    )
    output.loss.backward()
    return output.loss.item(), [parameter.grad for parameter in model.parameters()]


def rows_numbers(total: int) -> torch.Tensor:
    """Numbers of the queries; the first and the last are one text."""
    numbers = torch.arange(100, 100 + total)
    numbers[-1] = numbers[0]
    return numbers


def _process(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    results = [_gradients(slice(*case[0][rank : rank + 2]), case, distributed=True) for case in CASES[world_size]]
    torch.save(results, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_give_the_loss_and_gradient_of_the_joint_batch(world_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Forked: what they compute is tested, and a process that imports all anew takes seconds.
        multiprocessing.start_processes(_process, (world_size, folder), world_size, start_method="fork")
        found = [torch.load(Path(folder, f"{rank}.pt")) for rank in range(world_size)]
    for number, case in enumerate(CASES[world_size]):
        loss, expected = _gradients(slice(0, case[0][-1]), case, distributed=False)
        assert any(gradient.abs().max() > 0 for gradient in expected)
        assert sum(results[number][0] for results in found) / world_size == pytest.approx(loss, rel=1e-9)
        for results in found:
            torch.testing.assert_close(results[number][1], expected, rtol=1e-5, atol=1e-7)  # norms compute in float32
