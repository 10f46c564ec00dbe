"""The last 1,024 tokens of a 32k document, each target chunk with 8 retrieved keys before a window of 2,048."""

from ..compare import Comparison, compare
from ..options import Options
from ..outcome import Outcome
from ..srlm_reference import other_side
from ..srlm_task import OurSide, build_task, same_scores

SIZES = {"cpu": ("small", "medium"), "cuda": ("1b",)}
LENGTH = 32_768
MARKS = {("small", "cpu"): 3.0, ("medium", "cpu"): 1.8, ("1b", "cuda"): 1.35}
MEMORY_MARKS = {("1b", "cuda"): 2.0}


def run(options: Options) -> list[Outcome]:
    """One comparison for each size."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    task = build_task(size, LENGTH, options)
    ours, theirs = OurSide(task), other_side(task, options.reference)
    case = Comparison(
        "srlm-perplexity", size, ours.perplexity, theirs.perplexity, theirs.name, same_scores,
        MARKS, MEMORY_MARKS, task.backbone,
    )  # fmt: skip
    return compare(case, options)
