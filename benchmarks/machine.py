"""Time, memory and throughput of the machine that a row runs on."""

import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.nn.modules.linear_cross_entropy  # registers the operator that is counted below
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

_ATEN = torch.ops.aten


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds that `run` takes, work queued on the device included."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Waits for the device; the CPU is always done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_throughput(device: torch.device, size: int | None = None) -> float:
    """FLOP/s of one square matrix product: float32 on the CPU, bfloat16 on cuda."""
    on_gpu = device.type == "cuda"
    size = size or (8192 if on_gpu else 2048)
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    timed(lambda: matrix @ matrix, device)
    return 2 * size**3 / timed(lambda: matrix @ matrix, device)


def cuda_peak(run: Callable[[], Any], device: torch.device) -> int:
    """Bytes of cuda memory that `run` takes at its peak, what was allocated before included."""
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device)


def cpu_peak(run: Callable[[], Any]) -> int:
    """Bytes that torch's allocator holds at the peak of `run` above what it held before; exact, on the CPU only."""
    return max(accumulate(_cpu_changes(run), initial=0))


def held_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Bytes that stay allocated as long as what `run` returns does."""
    if device.type == "cpu":
        return sum(_cpu_changes(run))
    before = torch.cuda.memory_allocated(device)
    kept = run()
    held = torch.cuda.memory_allocated(device) - before
    del kept
    return held


def _cpu_changes(run: Callable[[], Any]) -> list[int]:
    """Bytes that `run` takes from torch's allocator, in order, negative where it gives back; its result lives on."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    del kept
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def resident_bytes(peak: bool = False) -> int:
    """Resident memory of this process, now or at its peak. Linux only: elsewhere there is no peak of one process
    without its parent's."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def counted(run: Callable[[], Any]) -> tuple[Any, int]:
    """What `run` returns, and the floating-point operations of its matrix products; causal attention counts half."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        result = run()
    return result, counter.get_total_flops()


def _flash(query: Any, key: Any, value: Any, dropout_p: float = 0.0, is_causal: bool = False, *_: Any, **__: Any):
    return _attention_flops(query, key, value, is_causal)


def _biased(query: Any, key: Any, value: Any, bias: Any, lse: bool, dropout_p: float = 0.0,
            is_causal: bool = False, *_: Any, **__: Any):  # fmt: skip
    return _attention_flops(query, key, value, is_causal)


def _attention_flops(query: Any, key: Any, value: Any, is_causal: bool) -> int:
    flops = sdpa_flop_count(query, key, value)
    return flops // 2 if is_causal else flops


def _loss_and_gradients(states: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 3 * 2 * states[0] * weight[0] * weight[1]


# torch counts no attention on the CPU, causal attention in full, and nothing within its fused loss.
_ATTENTION = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _flash,
    _ATEN._scaled_dot_product_flash_attention: _flash,
    _ATEN._scaled_dot_product_efficient_attention: _biased,
    _ATEN._scaled_dot_product_cudnn_attention: _biased,
    torch.ops.torch_nn._linear_cross_entropy_batch_chunked: _loss_and_gradients,
}
