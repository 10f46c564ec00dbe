"""Every key tried for each of 8 target chunks.

One pass a target and key is n * n_key passes, against n_key of ours: the ratio hardly depends on the document's
length, and the other side's time is proportional to it. So the document is shorter than the 32k of srlm-perplexity.
"""

from ..compare import Comparison, compare
from ..options import Options
from ..outcome import Outcome
from ..srlm_reference import other_side
from ..srlm_task import OurSide, build_task, same_scores

SIZES = {"cpu": ("small",), "cuda": ("1b",)}
LENGTHS = {"cpu": 4096, "cuda": 32_768}
MARKS = {("small", "cpu"): 9.0, ("medium", "cpu"): 9.0, ("1b", "cuda"): 8.0}


def run(options: Options) -> list[Outcome]:
    """One comparison for each size."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    task = build_task(size, LENGTHS[options.device.type], options, keys=1)
    ours, theirs = OurSide(task), other_side(task, options.reference)
    note = f"document of {task.input_ids.shape[1]:,} tokens, {task.num_keys} keys"
    case = Comparison(
        "srlm-oracle", size, ours.oracle, theirs.oracle, theirs.name, same_scores, MARKS, {}, task.backbone, note
    )
    return compare(case, options)
