"""A step's forward and backward pass at equal memory: our sub-batches against the gradient cache of
sentence-transformers, with as many texts at a time.

64 queries with a passage each, lengths log-normal with a mean of 80 tokens. The optimizer, which is the same for both,
has no part in it.
"""

from ..biencoder_task import build_task, cached_loss, our_loss, step
from ..compare import Comparison, compare
from ..llara_task import same_gradients
from ..options import Options
from ..outcome import Outcome

SIZES = {"cpu": ("small",), "cuda": ("1b",)}
MARKS = {("small", "cpu"): 1.1, ("medium", "cpu"): 1.1, ("1b", "cuda"): 1.0}


def run(options: Options) -> list[Outcome]:
    """One comparison for each size."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    task = build_task(size, options.device, *((8, 2) if options.quick else ()))
    ours, theirs = our_loss(task), cached_loss(task)
    case = Comparison(
        "biencoder-step", size, lambda: step(task, ours), lambda: step(task, theirs), "sentence-transformers",
        same_gradients, MARKS, {}, task.model,
    )  # fmt: skip
    return compare(case, options)
