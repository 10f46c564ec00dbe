"""Whole documents of 8k to 256k tokens with kept states on the disk, against ours on the shortest: flat as well.

As in `srlm-document` each document is scored in a process of its own, the lengths in turn; the store lies on the disk,
so that memory must not grow either. The gate: within the window, the backbone's plain pass.
"""

import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from modeling_srlm import SelfRetrievalLM

from ..isolated import run_alone
from ..machine import matmul_throughput, resident_bytes, synchronize
from ..options import Options
from ..outcome import Mark, Outcome
from ..shapes import SHAPES, random_backbone, random_document, word_tokenizer
from ..srlm_reuse_task import build_modes, equals_plain_pass
from .srlm_document import growth

SIZES = {"cpu": ("small",), "cuda": ("1b",)}
LENGTHS, QUICK_LENGTHS = tuple(2**power for power in range(13, 19)), (1024, 2048)
SETTINGS: dict[str, Any] = {"context_window_size": 512, "chunk_size": 128, "key_num": 2}
QUICK_SETTINGS: dict[str, Any] = {"context_window_size": 128, "chunk_size": 32, "key_num": 2}
FLAT = Mark(1.10, at_most=True)
WARM_UP = 4  # windows that are read before time is taken


def run(options: Options) -> list[Outcome]:
    """Time and memory for each size."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    lengths = QUICK_LENGTHS if options.quick else LENGTHS
    check = equals_plain_pass(build_modes(size, lengths[0], options, **_settings(options.quick)))
    told = Outcome(
        "srlm-reuse-length", size, "bm25", f"ours on {lengths[0]:,} tokens", check,
        mark=None if options.quick else FLAT, note="worst length / shortest",
    )  # fmt: skip
    if not check.equal:
        return [told]
    runs: dict[int, list[dict[str, float]]] = {length: [] for length in lengths}
    throughput = []
    turns = [length for _ in range(options.repeats) for length in lengths]
    for length in tqdm(turns, desc=f"srlm-reuse-length {size}", leave=False):
        runs[length].append(run_alone(__name__, size=size, length=length, quick=options.quick))
        throughput.append(matmul_throughput(options.device, 256 if options.quick else None))
    outcomes = [growth(told, "time per token", 1e-6, "us", runs), growth(told, "memory", 2**20, "MiB", runs)]
    return [replace(outcome, throughput=median(throughput)) for outcome in outcomes]


def _settings(quick: bool) -> dict[str, Any]:
    return QUICK_SETTINGS if quick else SETTINGS


@torch.no_grad()
def alone(size: str, length: int, quick: bool) -> dict[str, float]:
    """Seconds per token and bytes of working memory of one document, in a process of its own."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vocabulary = SHAPES[size].vocabulary
    model = SelfRetrievalLM.from_components(
        random_backbone(size, device), word_tokenizer(vocabulary), retrieval_method="bm25", reuse_states=True,
        store_place="disk", **_settings(quick),
    )  # fmt: skip
    return measured(model, random_document(length, vocabulary).to(device))


def measured(model: SelfRetrievalLM, document: torch.Tensor) -> dict[str, float]:
    """Seconds per token of scoring a document (length,), and bytes at the peak above what the process held before."""
    device, ids = model.device, document[None]
    warm_up = ids[:, : WARM_UP * model.config.context_window_size]
    before = torch.cuda.memory_allocated() if device.type == "cuda" else resident_bytes()
    model(warm_up, labels=warm_up)
    synchronize(device)
    start = time.perf_counter()
    loss = model(ids, labels=ids).loss.item()
    synchronize(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident_bytes(peak=True)
    return {"time per token": seconds / len(document), "memory": peak - before, "loss": loss}
