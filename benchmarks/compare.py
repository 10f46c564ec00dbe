"""The frame of a row with two sides: equality first, then A B A B, the median ratio and our share of the limit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from .machine import counted, cuda_peak, matmul_throughput, timed
from .options import Options
from .outcome import Check, Mark, Outcome, Ratio


@dataclass(frozen=True)
class Comparison:
    """Two sides that compute the same, or do the same job in two ways.

    Args:
        row, size: names for the table.
        ours, theirs: each runs its side once and returns what `check` compares.
        other: what the other side is.
        check: gates the row.
        gate: in place of that, for sides whose results differ: what shows that ours is right.
        marks: (size, device type) -> lowest time ratio that reaches the mark.
        memory_marks: the same for peak memory, which is measured on cuda only.
        backbone: the model of both sides; it is in float32 while equality is checked.
        note: what a reader must know, such as a reduced length.
    """

    row: str
    size: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    other: str
    check: Callable[[Any, Any], Check] | None
    marks: dict[tuple[str, str], float]
    memory_marks: dict[tuple[str, str], float]
    backbone: nn.Module | None = None
    note: str = ""
    gate: Callable[[], Check] | None = None

    def mark(self, marks: dict[tuple[str, str], float], device: torch.device) -> Mark | None:
        at = marks.get((self.size, device.type))
        return None if at is None else Mark(at)


@torch.no_grad()
def compare(case: Comparison, options: Options) -> list[Outcome]:
    """The outcome in time and, on cuda, in peak memory; where the sides differ, one outcome that says FAIL."""
    check, flops = _checked(case)
    if not check.equal:
        return [Outcome(case.row, case.size, "time", case.other, check, note=case.note)]
    memory = _compare_memory(case, check, options.device) if options.device.type == "cuda" else []
    return [_compare_time(case, check, flops, options), *memory]


def _checked(case: Comparison) -> tuple[Check, int]:
    """The check, and the floating-point operations of our side."""
    with _in_float32(case.backbone):
        ours, flops = counted(case.ours)
        if case.gate is not None:
            return case.gate(), flops
        assert case.check is not None
        return case.check(ours, case.theirs()), flops


@contextmanager
def _in_float32(backbone: nn.Module | None) -> Iterator[None]:
    """Exact both ways: every bfloat16 number is a float32 number. In bfloat16 1e-5 could not be told from noise."""
    if backbone is None:
        yield
        return
    dtype = next(backbone.parameters()).dtype
    backbone.float()
    try:
        yield
    finally:
        backbone.to(dtype)


def _compare_time(case: Comparison, check: Check, flops: int, options: Options) -> Outcome:
    ours, theirs, throughput = [], [], []
    for _ in tqdm(range(options.repeats), desc=f"{case.row} {case.size}", leave=False):
        ours.append(timed(case.ours, options.device))
        theirs.append(timed(case.theirs, options.device))
        throughput.append(matmul_throughput(options.device, 256 if options.quick else None))
    limit = flops / median(throughput)  # seconds
    return Outcome(
        case.row,
        case.size,
        "time",
        case.other,
        check,
        ratio=Ratio.of([b / a for a, b in zip(ours, theirs, strict=True)]),
        ours=f"{median(ours):.3g} s",
        theirs=f"{median(theirs):.3g} s",
        mark=case.mark(case.marks, options.device),
        throughput=median(throughput),
        share=limit / median(ours) if flops else None,
        note=case.note,
    )


def _compare_memory(case: Comparison, check: Check, device: torch.device) -> list[Outcome]:
    """The first use in the timing's own dtype, so it warms up as well."""
    ours, theirs = cuda_peak(case.ours, device), cuda_peak(case.theirs, device)
    return [
        Outcome(
            case.row,
            case.size,
            "peak memory",
            case.other,
            check,
            ratio=Ratio.of([theirs / ours]),
            ours=f"{ours / 2**20:.0f} MiB",
            theirs=f"{theirs / 2**20:.0f} MiB",
            mark=case.mark(case.memory_marks, device),
            note=case.note,
        )
    ]
