"""Peak memory of the loss head: from last hidden states to the loss, and back to the gradients of states and head.

Batch 8, length 512, 32,000 words. What the head and the states take themselves is not counted; their gradients are.
Equal are the gradients but for what words may move whose highest logit two special tokens share (see `Ties`).
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from ..llara_task import Loss, Task, build_task, find_ties, other_loss, our_loss, same_gradients
from ..machine import cpu_peak, cuda_peak
from ..options import Options
from ..outcome import Mark, Outcome, Ratio
from ..shapes import SHAPES

SIZES = {"cpu": ("small", "medium"), "cuda": ("1b",)}
MARKS = {("small", "cpu"): Mark(8.0), ("medium", "cpu"): Mark(8.0), ("1b", "cuda"): Mark(8.0)}


def run(options: Options) -> list[Outcome]:
    """One comparison for each size."""
    return [_run_size(size, options) for size in options.sizes(SIZES)]


def _run_size(size: str, options: Options) -> Outcome:
    task = build_task(size, options.device, *((2, 128) if options.quick else (8, 512)))
    task.model.float()  # in bfloat16 1e-5 could not be told from noise
    name, theirs = other_loss(task, options.reference)
    states = _random_states(task, SHAPES[size].hidden)
    sides = [_gradients(task, loss, states) for loss in (our_loss(task), theirs)]
    check = same_gradients(sides[0](), sides[1](), find_ties(task, states))
    told = Outcome("llara-memory", size, "peak memory", name, check)
    if not check.equal:
        return told
    ours, other = (_peak(side, task, options.device) for side in sides)
    return replace(
        told, ratio=Ratio.of([other / ours]), ours=f"{ours / 2**20:.0f} MiB", theirs=f"{other / 2**20:.0f} MiB",
        mark=MARKS.get((size, options.device.type)),
    )  # fmt: skip


def _random_states(task: Task, hidden: int) -> torch.Tensor:
    states = torch.randn(*task.input_ids.shape, hidden, generator=torch.Generator().manual_seed(0))
    return states.to(task.input_ids.device).requires_grad_()


def _gradients(task: Task, loss: Loss, states: torch.Tensor) -> Callable[[], dict[str, torch.Tensor]]:
    def compute() -> dict[str, torch.Tensor]:
        weight = task.head.get_parameter("weight")
        weight.grad = states.grad = None
        value = loss(states, task.head)
        value.backward()
        assert weight.grad is not None and states.grad is not None
        return {"loss": value.detach(), "states": states.grad, "head": weight.grad}

    return compute


def _peak(side: Callable[[], dict[str, torch.Tensor]], task: Task, device: torch.device) -> int:
    task.head.zero_grad(set_to_none=True)  # the other side's, which is not this one's to hold
    if device.type == "cpu":
        return cpu_peak(side)
    before = torch.cuda.memory_allocated(device)
    return cuda_peak(side, device) - before
