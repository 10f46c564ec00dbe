"""A step's forward and backward pass against sentence-transformers: at equal memory, and of a whole batch.

64 queries with a passage each, lengths log-normal with a mean of 80 tokens. At equal memory our sub-batches stand
against its gradient cache, with as many texts at a time. Of a whole batch its plain loss computes the padding as well.
The optimizer, which is the same for both, has no part in it.
"""

from ..biencoder_task import Loss, Task, build_task, cached_loss, our_loss, step, whole_loss
from ..compare import Comparison, compare
from ..llara_task import same_gradients
from ..options import Options
from ..outcome import Outcome

SIZES = {"cpu": ("small",), "cuda": ("1b",)}
MARKS = {**{(size, "cpu"): 1.1 for size in ("small", "medium", "minilm")}, ("1b", "cuda"): 1.0}
WHOLE_MARKS = {(size, "cpu"): 1.25 for size in ("medium", "minilm")}


def run(options: Options) -> list[Outcome]:
    """Two comparisons for each size."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    task = build_task(size, options.device, *((8, 2) if options.quick else ()))
    parts = our_loss(task), cached_loss(task), MARKS, "as many texts at a time"
    whole = our_loss(task, whole=True), whole_loss(task), WHOLE_MARKS, "the whole batch at once"
    return [outcome for case in (parts, whole) for outcome in _compare(task, size, options, *case)]


def _compare(
    task: Task, size: str, options: Options, ours: Loss, theirs: Loss, marks: dict[tuple[str, str], float], note: str
) -> list[Outcome]:
    case = Comparison(
        "biencoder-step", size, lambda: step(task, ours), lambda: step(task, theirs), "sentence-transformers",
        same_gradients, marks, {}, task.model, note,
    )  # fmt: skip
    return compare(case, options)
