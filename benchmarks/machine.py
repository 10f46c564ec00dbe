"""Time, memory and throughput of the machine that a row runs on."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
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


# torch counts no attention on the CPU, and causal attention in full.
_ATTENTION = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _flash,
    _ATEN._scaled_dot_product_flash_attention: _flash,
    _ATEN._scaled_dot_product_efficient_attention: _biased,
    _ATEN._scaled_dot_product_cudnn_attention: _biased,
}
