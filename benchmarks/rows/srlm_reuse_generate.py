"""1,000 new tokens behind a prompt of 32k, greedily, with kept states against recomputed blocks.

Once with the prompt read in the call, and once as in a conversation that goes on: the former call has read it. The
gate: inside the window, without retrieval, the tokens are those of the backbone's own `generate`.
"""

import torch

from modeling_srlm import SelfRetrievalLM

from ..compare import Comparison, compare
from ..options import Options
from ..outcome import Check, Outcome
from ..srlm_reuse_task import Modes, build_modes
from .srlm_generate import same_tokens

SIZES = {"cpu": ("small",), "cuda": ("1b",)}
MARKS = {("small", "cpu"): 3.0, ("medium", "cpu"): 3.0, ("1b", "cuda"): 5.0}


def run(options: Options) -> list[Outcome]:
    """Two comparisons for each size."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    length, new = (512, 40) if options.quick else (32_768, 1000)
    modes = build_modes(size, length, options)
    whole = _compare(modes, size, options, new, True, "the prompt is read in the call")
    return whole + _compare(modes, size, options, new, False, "the former call has read the prompt")


def _compare(modes: Modes, size: str, options: Options, new: int, reads: bool, note: str) -> list[Outcome]:
    def generate(model: SelfRetrievalLM) -> torch.Tensor:
        if reads:
            model._kept_states = None
        return model.generate(modes.input_ids, max_new_tokens=new, do_sample=False)

    case = Comparison(
        "srlm-reuse-generate", size, lambda: generate(modes.kept), lambda: generate(modes.exact), "our exact mode",
        None, MARKS, {}, modes.backbone, note, lambda: _is_the_backbones(modes),
    )  # fmt: skip
    return compare(case, options)


def _is_the_backbones(modes: Modes) -> Check:
    config = modes.kept.config
    prompt, method = modes.input_ids[:, : config.context_window_size // 2], config.retrieval_method
    own = modes.backbone.generate(prompt, max_new_tokens=2 * config.chunk_size, do_sample=False)  # type: ignore[operator]
    kept, modes.kept._kept_states, config.retrieval_method = modes.kept._kept_states, None, "no"
    try:
        ours = modes.kept.generate(prompt, max_new_tokens=2 * config.chunk_size, do_sample=False)
    finally:
        modes.kept._kept_states, config.retrieval_method = kept, method
    return same_tokens(ours[0].tolist(), own[0].tolist())
