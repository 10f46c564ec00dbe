"""Whole documents of 8k to 128k tokens, against ours on the shortest: time per token and memory must not grow.

Each document is scored in a process of its own, the lengths in turn. Memory is the peak of the resident set (on cuda
of the allocator) above what the process held before scoring. The gate: the last block of the shortest document, scored
with the document, has the losses of the last block scored alone.
"""

import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from modeling_srlm import SelfRetrievalLM

from ..isolated import run_alone
from ..machine import counted, matmul_throughput, resident_bytes, synchronize
from ..options import Options
from ..outcome import Check, Mark, Outcome, Ratio
from ..report import markdown
from ..shapes import SHAPES, TextHash, random_backbone, random_document, word_tokenizer

SIZES = {"cpu": ("small",), "cuda": ("1b",)}
LENGTHS, QUICK_LENGTHS = (8192, 16_384, 32_768, 65_536, 131_072), (1024, 2048)
SETTINGS: dict[str, Any] = {"context_window_size": 512, "chunk_size": 128, "target_size": 256}
QUICK_SETTINGS: dict[str, Any] = {"context_window_size": 128, "chunk_size": 32, "target_size": 64}
FLAT = Mark(1.10, at_most=True)


def run(options: Options) -> list[Outcome]:
    """Time and memory for each size and retrieval method."""
    return [
        outcome
        for size in options.sizes(SIZES)
        for method in ("bm25", "dense")
        for outcome in _run_method(size, method, options)
    ]


def _run_method(size: str, method: str, options: Options) -> list[Outcome]:
    lengths = QUICK_LENGTHS if options.quick else LENGTHS
    check, flops = _check_last_block(size, method, lengths[0], options)
    told = Outcome("srlm-document", size, method, f"ours on {lengths[0]:,} tokens", check)
    if not check.equal:
        return [told]
    runs: dict[int, list[dict[str, float]]] = {length: [] for length in lengths}
    throughput = []
    turns = [length for _ in range(options.repeats) for length in lengths]
    for length in tqdm(turns, desc=f"srlm-document {method} {size}", leave=False):
        runs[length].append(run_alone(__name__, size=size, method=method, length=length, quick=options.quick))
        throughput.append(matmul_throughput(options.device, 256 if options.quick else None))
    rate, seconds = median(throughput), median(one["time per token"] for one in runs[lengths[0]]) * lengths[0]
    told = replace(told, mark=None if options.quick else FLAT, note="worst length / shortest")
    return [
        replace(growth(told, "time per token", 1e-6, "us", runs), throughput=rate, share=flops / rate / seconds),
        growth(told, "memory", 2**20, "MiB", runs),
    ]


def growth(told: Outcome, name: str, scale: float, unit: str, runs: dict[int, list[dict[str, float]]]) -> Outcome:
    """The worst length against the shortest, turn by turn."""
    values = {length: [one[name] / scale for one in found] for length, found in runs.items()}
    medians = {length: median(found) for length, found in values.items()}
    shortest, *longer = values
    ratios = [max(values[length][turn] for length in longer) / first for turn, first in enumerate(values[shortest])]
    lines = [[f"{length:,}", f"{value:.3g}"] for length, value in medians.items()]
    return replace(
        told,
        measure=f"{name}, {told.measure}",
        ratio=Ratio.of(ratios),
        ours=f"{max(medians[length] for length in longer):.3g} {unit}",
        theirs=f"{medians[shortest]:.3g} {unit}",
        detail=f"\n{markdown(('tokens', f'{name}, {told.measure} ({unit})'), lines)}\n",
    )


def build_model(size: str, method: str, quick: bool) -> SelfRetrievalLM:
    """The model of the row, on cuda where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = QUICK_SETTINGS if quick else SETTINGS
    return SelfRetrievalLM.from_components(
        random_backbone(size, device), word_tokenizer(SHAPES[size].vocabulary), TextHash(),
        retrieval_method=method, key_num=2, **settings,
    )  # fmt: skip


@torch.no_grad()
def _check_last_block(size: str, method: str, length: int, options: Options) -> tuple[Check, int]:
    """The check, and the FLOPs of the document."""
    model = build_model(size, method, options.quick).float()
    ids = random_document(length, SHAPES[size].vocabulary).to(options.device)[None]
    block = model.config.target_size
    last = ids.clone()
    last[:, :-block] = -100
    alone = model(ids, labels=last).target_losses[0]
    whole, flops = counted(lambda: model(ids, labels=ids).target_losses[0])
    together = whole[-len(alone) :]
    apart = ((alone - together).abs() / alone).max().item()
    return Check(apart <= 1e-5, f"last block as scored alone, loss {apart:.0e} apart"), flops


@torch.no_grad()
def alone(size: str, method: str, length: int, quick: bool) -> dict[str, float]:
    """Seconds per token and bytes of working memory of one document, in a process of its own."""
    model = build_model(size, method, quick)
    device, vocabulary = model.device, SHAPES[size].vocabulary
    warm_up = random_document(4 * model.config.context_window_size, vocabulary, seed=1).to(device)[None]
    ids = random_document(length, vocabulary).to(device)[None]
    before = torch.cuda.memory_allocated() if device.type == "cuda" else resident_bytes()
    model(warm_up, labels=warm_up)
    synchronize(device)
    start = time.perf_counter()
    model(ids, labels=ids)
    synchronize(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident_bytes(peak=True)
    return {"time per token": seconds / length, "memory": peak - before}
