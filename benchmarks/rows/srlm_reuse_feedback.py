"""16 candidates for each of 8 target chunks: how likely is the target behind each, with kept states and recomputed?

With kept states each target has the whole window before it. Recomputed, that takes a block a target; in a block of
eight targets one pass serves all eight, and the first ones have less before them. Both are measured, and a third: each
target has sixteen of its own, drawn from 64, as a retriever finds them. The gate: a candidate alone is as likely
as in the batch, and that which was retrieved as in `forward`.
"""

from typing import Any

import torch

from ..compare import Comparison, compare
from ..options import Options
from ..outcome import Check, Outcome
from ..srlm_reuse_task import QUICK_SETTINGS, SETTINGS, TOLERANCE, Modes, build_modes

SIZES = {"cpu": ("small",), "cuda": ("1b",)}
CANDIDATES, TARGETS, QUICK_TARGETS = 16, 8, 4
OWN_KEYS = 64
MARKS = {("small", "cpu"): 8.0, ("medium", "cpu"): 8.0, ("1b", "cuda"): 8.0}


def run(options: Options) -> list[Outcome]:
    """Three comparisons for each size."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    settings, targets = (QUICK_SETTINGS, QUICK_TARGETS) if options.quick else (SETTINGS, TARGETS)

    def modes(keys: int) -> Modes:  # all of them are keys of the first target
        length = settings["context_window_size"] + (1 + keys + targets) * settings["chunk_size"]
        return build_modes(size, length, options, key_num=1, chunk_batch_size=CANDIDATES)

    same, generator = torch.arange(CANDIDATES)[None], torch.Generator().manual_seed(0)
    own = torch.stack([torch.randperm(OWN_KEYS, generator=generator)[:CANDIDATES] for _ in range(targets)])[None]
    shared = modes(CANDIDATES)
    return [
        *_compare(shared, size, options, 1, targets, same, "each target with its whole window"),
        *_compare(shared, size, options, targets, targets, same, f"recomputed in a block of {targets} targets"),
        *_compare(modes(OWN_KEYS), size, options, targets, targets, own, "so, candidates of each target's own"),
    ]


def _compare(
    modes: Modes, size: str, options: Options, block: int, targets: int, candidates: torch.Tensor, note: str
) -> list[Outcome]:
    batch: dict[str, Any] = {"input_ids": modes.input_ids, "labels": modes.labels(targets * modes.chunk)}
    marks = MARKS if block == 1 or candidates.ndim == 3 else {}

    def recomputed() -> torch.Tensor:
        modes.exact.config.target_size = block * modes.chunk
        return modes.exact.score_candidates(**batch, candidates=candidates)

    case = Comparison(
        "srlm-reuse-feedback", size, lambda: modes.kept.score_candidates(**batch, candidates=candidates), recomputed,
        "our exact mode", None, marks, {}, modes.backbone, note, lambda: _is_forward(modes, batch),
    )  # fmt: skip
    return compare(case, options)


@torch.no_grad()
def _is_forward(modes: Modes, batch: dict[str, Any]) -> Check:
    """Three candidates alone, and of each target the one that `forward` retrieved."""
    every = modes.kept.score_candidates(**batch)[0]
    output = modes.kept(**batch)
    keys = output.retrieved_indices[0, :, 0]
    likely = every.gather(1, keys[:, None])[:, 0]
    apart = [(likely + output.target_losses[0] * modes.chunk).abs() / likely.abs()]
    for key in (0, CANDIDATES // 2, CANDIDATES - 1):
        alone = modes.kept.score_candidates(**batch, candidates=torch.tensor([[key]]))[0, :, 0]
        apart.append((alone - every[:, key]).abs() / alone.abs())
    most = torch.cat(apart).max().item()
    return Check(most <= TOLERANCE, f"as in forward and alone, likelihoods {most:.0e} apart")
