"""Rows of all processes, with their gradient, so that negatives come from the whole distributed batch."""

from typing import Any

import torch
from torch import distributed as dist


def is_distributed() -> bool:
    """Whether there is a process group of more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_sizes(size: int, device: torch.device) -> list[int]:
    """`size` of every process, by rank. Every process must call it."""
    mine = torch.tensor([size], device=device)
    sizes = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, mine)
    return [int(size) for size in torch.cat(sizes).tolist()]


def gather_rows(rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """(n, d) of every process -> (sum(sizes), d), by rank; the gradient flows back to the process a row came from.

    Args:
        rows: this process's rows; processes may hold different numbers of them.
        sizes: the number of rows of every process, from `gather_sizes`.
    """
    return _GatherRows.apply(rows, sizes)


class _GatherRows(torch.autograd.Function):
    """torch.distributed.nn.functional.all_gather is deprecated, and takes rows of one size only."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        ctx.sizes = sizes
        padded = rows.new_zeros(max(sizes), rows.shape[1])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        # Every process holds the gradient of its own loss with respect to all rows: their sum is the rows' gradient.
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        start = sum(ctx.sizes[: dist.get_rank()])
        return gradient[start : start + ctx.sizes[dist.get_rank()]], None
