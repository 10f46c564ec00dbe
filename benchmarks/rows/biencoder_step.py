"""A step's forward and backward pass against sentence-transformers: at equal memory, and of a whole batch.

64 queries with a passage each, lengths log-normal with a mean of 80 tokens. At equal memory our sub-batches stand
against its gradient cache, with as many texts at a time. Of a whole batch its plain loss computes the padding as well.
The optimizer, which is the same for both, has no part in it.
"""

from collections.abc import Callable
from functools import partial

from ..biencoder_task import Loss, Task, build_task, cached_loss, our_loss, step, whole_loss
from ..compare import Comparison, compare
from ..llara_task import same_gradients
from ..options import Options
from ..outcome import Check, Outcome

SIZES, SLOW_SIZES = {"cpu": ("small",), "cuda": ("1b",)}, {"cpu": ("medium",)}
MARKS = {**{(size, "cpu"): 1.1 for size in ("small", "medium", "minilm")}, ("1b", "cuda"): 1.0}
Side = Callable[[Task], Loss]
WHOLE_MARKS = {(size, "cpu"): 1.25 for size in ("medium", "minilm")}


def run(options: Options) -> list[Outcome]:
    """Two comparisons for each size."""
    return [outcome for size in options.sizes(SIZES, SLOW_SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    task = build_task(size, options.device, *((8, 2) if options.quick else ()))
    parts = our_loss, cached_loss, MARKS, "as many texts at a time"
    whole = partial(our_loss, whole=True), whole_loss, WHOLE_MARKS, "the whole batch at once"
    return [outcome for case in (parts, whole) for outcome in _compare(task, size, options, *case)]


def _compare(
    task: Task, size: str, options: Options, ours: Side, theirs: Side, marks: dict[tuple[str, str], float], note: str
) -> list[Outcome]:
    our_side, their_side = ours(task), theirs(task)
    case = Comparison(
        "biencoder-step", size, lambda: step(task, our_side), lambda: step(task, their_side), "sentence-transformers",
        None, marks, {}, task.model, note, lambda: _same_in_float64(size, options, ours, theirs),
    )  # fmt: skip
    return compare(case, options)


def _same_in_float64(size: str, options: Options, ours: Side, theirs: Side) -> Check:
    """Of 8 queries. A bias adds up all tokens, whose order alone makes 1e-5 of it in float32."""
    task = build_task(size, options.device, 8, 2)
    task.model.double()
    return same_gradients(step(task, ours(task)), step(task, theirs(task)))
