"""What a batch in sub-batches keeps for its backward pass, and the peak memory of the whole step.

64 queries with a passage each, 8 texts embedded at a time. Saved activations are what stays allocated when the forward
pass is done. The peak of the step, forward and backward, has the gradients of all weights in it, which are the same
for both sides.
"""

import torch

from ..biencoder_task import Loss, Task, build_task, other_loss, our_loss, step
from ..llara_task import same_gradients
from ..machine import cpu_peak, cuda_peak, held_bytes
from ..options import Options
from ..outcome import Check, Mark, Outcome, Ratio

SIZES = {"cpu": ("small", "medium"), "cuda": ("1b",)}
MARKS = {("small", "cpu"): Mark(6.0), ("medium", "cpu"): Mark(6.0), ("1b", "cuda"): Mark(6.0)}


def run(options: Options) -> list[Outcome]:
    """Saved activations and peak memory for each size."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    task = build_task(size, options.device, *((8, 2) if options.quick else ()))
    task.model.float()  # in bfloat16 1e-5 could not be told from noise
    name, theirs = other_loss(task, options.reference)
    sides = (our_loss(task), theirs)
    check = same_gradients(step(task, sides[0]), step(task, sides[1]))
    if not check.equal:
        return [Outcome("biencoder-memory", size, "saved activations", name, check)]
    saved = [held_bytes(side, options.device) for side in sides]
    peaks = [_peak(task, side) for side in sides]
    mark = MARKS.get((size, options.device.type))
    return [
        _outcome(size, "saved activations", name, check, saved, mark),
        _outcome(size, "peak memory", name, check, peaks, None),
    ]


def _outcome(size: str, measure: str, other: str, check: Check, found: list[int], mark: Mark | None) -> Outcome:
    ours, theirs = found
    return Outcome(
        "biencoder-memory", size, measure, other, check, Ratio.of([theirs / ours]), f"{ours / 2**20:.0f} MiB",
        f"{theirs / 2**20:.0f} MiB", mark,
    )  # fmt: skip


def _peak(task: Task, loss: Loss) -> int:
    device = task.model.device
    task.model.zero_grad(set_to_none=True)  # the other side's, which are not this one's to hold
    if device.type == "cpu":
        return cpu_peak(lambda: step(task, loss))
    before = torch.cuda.memory_allocated(device)
    return cuda_peak(lambda: step(task, loss), device) - before
