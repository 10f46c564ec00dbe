"""A text of a million tokens, once through the embedded model with kept states on the disk, in bounded memory.

The text is the standard library, whole and as often as it takes; it looks back at all of it by BM25. The memory is the
peak of the resident set above what the process held with the model and the text, against 2 GiB. The gate: within the
window, the backbone's plain pass.
"""

from itertools import cycle
from typing import Any

import torch

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.tokenizers_srlm import text_ids
from trainers.embedded import BACKBONE_FOLDER
from trainers.embedded.corpus import standard_library

from ..isolated import run_alone
from ..machine import resident_bytes
from ..options import Options
from ..outcome import Mark, Outcome, Ratio
from ..report import markdown
from ..srlm_reuse_task import Modes, equals_plain_pass
from .srlm_reuse_length import WARM_UP, measured

LENGTH, QUICK_LENGTH = 1_000_000, 4096
SETTINGS: dict[str, Any] = {"context_window_size": 512, "chunk_size": 64, "key_num": 2}
MOST = 2**31
BOUNDED = Mark(1.0, at_most=True)


def run(options: Options) -> list[Outcome]:
    """The one outcome; a run takes minutes, and is not repeated."""
    model = build_model()
    ids = text_of(model, model.config.context_window_size)[None]
    check = equals_plain_pass(Modes(model.language_model, model, model, ids))
    told = Outcome("srlm-reuse-million", "embedded", "peak memory above the model", "2 GiB", check)
    if not check.equal:
        return [told]
    length = QUICK_LENGTH if options.quick else LENGTH
    found = run_alone(__name__, length=length)
    memory, rate = found["memory"], 1 / found["time per token"]
    quarters = ", ".join(f"{resident / 2**20:.0f}" for resident in found["resident"])
    cells = [f"{length:,}", f"{memory / 2**20:.0f}", quarters, f"{rate:,.0f}", f"{found['loss']:.4f}"]
    columns = "tokens", "peak memory (MiB)", "resident at each quarter (MiB)", "tokens a second", "mean loss"
    return [
        Outcome(
            told.row, told.size, told.measure, told.other, check, ratio=Ratio.of([memory / MOST]),
            ours=f"{memory / 2**20:.0f} MiB", theirs=f"{MOST / 2**20:,.0f} MiB",
            mark=None if options.quick else BOUNDED, note=f"{length:,} tokens, ours / other",
            detail=f"\n{markdown(columns, [cells])}\n",
        )
    ]  # fmt: skip


def build_model() -> SelfRetrievalLM:
    """The embedded model, on cuda where there is one."""
    model = SelfRetrievalLM.from_components(
        str(BACKBONE_FOLDER), retrieval_method="bm25", reuse_states=True, store_place="disk", **SETTINGS
    )
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


def text_of(model: SelfRetrievalLM, length: int) -> torch.Tensor:
    """(length,) token ids of the standard library, file after file, again from the first one if need be."""
    parts: list[torch.Tensor] = []
    count = 0
    for document in cycle(standard_library("train")):
        (ids,) = text_ids(model.tokenizer, [document.text])
        parts, count = [*parts, torch.tensor(ids, dtype=torch.long)], count + len(ids)
        if count >= length:
            return torch.cat(parts)[:length].to(model.device)
    raise AssertionError("an endless cycle")


def alone(length: int) -> dict[str, Any]:
    """The figures of one text, in a process of its own; `resident`: all memory at each quarter of the text."""
    model = build_model()
    resident = watch_quarters(model, length)
    with torch.no_grad():
        return {**measured(model, text_of(model, length)), "resident": resident}


def watch_quarters(model: SelfRetrievalLM, length: int) -> list[int]:
    """Bytes of resident memory, filled as each quarter of the tokens that `measured` reads is read."""
    resident: list[int] = []
    first = WARM_UP * model.config.context_window_size
    read = -min(first, length)

    def count(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        nonlocal read
        read += kwargs["input_ids"].numel()
        if 4 * (read + model.config.chunk_size) >= (len(resident) + 1) * length > 0 and len(resident) < 4:
            resident.append(resident_bytes())

    model.language_model.register_forward_hook(count, with_kwargs=True)
    return resident
