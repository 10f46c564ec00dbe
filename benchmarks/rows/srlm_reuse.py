"""A whole document of 16k tokens scored with kept states, against each block recomputed. W 2048, C 128, k 8."""

from typing import Any

from ..compare import Comparison, compare
from ..options import Options
from ..outcome import Outcome
from ..srlm_reuse_task import build_modes, equals_plain_pass

SIZES = {"cpu": ("medium",), "cuda": ("1b",)}
LENGTH, QUICK_LENGTH = 16_384, 512
MARKS = {("medium", "cpu"): 10.0, ("1b", "cuda"): 10.0}


def run(options: Options) -> list[Outcome]:
    """One comparison for each size."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    modes = build_modes(size, QUICK_LENGTH if options.quick else LENGTH, options)
    batch: dict[str, Any] = {"input_ids": modes.input_ids, "labels": modes.labels()}
    note = f"{modes.input_ids.shape[1]:,} tokens, all scored"
    case = Comparison(
        "srlm-reuse", size, lambda: modes.kept(**batch), lambda: modes.exact(**batch), "our exact mode", None, MARKS,
        {}, modes.backbone, note, lambda: equals_plain_pass(modes),
    )  # fmt: skip
    return compare(case, options)
