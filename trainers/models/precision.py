"""Types that weights are loaded in, by name."""

from typing import Any

import torch


def check_dtype(dtype: Any) -> None:
    """ValueError for a name that is none of torch's types for weights; None is that of the repo, and `auto` too."""
    if dtype is None or dtype == "auto" or isinstance(dtype, torch.dtype | dict):
        return
    found = getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype={dtype!r} is no type of weights: take float32, bfloat16 or float16.")
