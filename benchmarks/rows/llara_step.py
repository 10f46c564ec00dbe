"""A step's forward and backward pass: our losses against all logits, the decoder with gradient checkpointing on both
sides.

Batch 8, length 512, 32,000 words. Both sides run the same decoder under the two-stream mask; the optimizer, which is
the same for both, has no part in it.
"""

import torch

from ..compare import Comparison, compare
from ..llara_task import Loss, Task, build_task, other_loss, our_loss, same_gradients
from ..options import Options
from ..outcome import Outcome

SIZES, SLOW_SIZES = {"cpu": ("small",), "cuda": ("1b",)}, {"cpu": ("medium",)}
MARKS = {("small", "cpu"): 1.05, ("medium", "cpu"): 1.5, ("1b", "cuda"): 1.3}


def run(options: Options) -> list[Outcome]:
    """One comparison for each size."""
    return [outcome for size in options.sizes(SIZES, SLOW_SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    task = build_task(size, options.device, *((2, 128) if options.quick else (8, 512)))
    task.model.gradient_checkpointing_enable()
    name, theirs = other_loss(task, options.reference)
    case = Comparison(
        "llara-step", size, lambda: _step(task, our_loss(task)), lambda: _step(task, theirs), name, same_gradients,
        MARKS, {}, task.model,
    )  # fmt: skip
    return compare(case, options)


@torch.enable_grad()
def _step(task: Task, loss: Loss) -> dict[str, torch.Tensor]:
    """The loss and the gradient of every weight."""
    task.model.zero_grad()
    states = task.model(task.input_ids, output_hidden_states=True).hidden_states[-1]
    value = loss(states, task.head)
    value.backward()
    gradients = {name: weight.grad for name, weight in task.model.named_parameters() if weight.grad is not None}
    return {"loss": value.detach(), **gradients}
