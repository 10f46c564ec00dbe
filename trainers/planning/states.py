"""The states that a text leaves under `reuse_states`: bytes of a chunk, off a cache without contents."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

from modeling_srlm.moving_srlm import IN_VALUES, StateGroup, check_family
from modeling_srlm.slabs_srlm import slot_parts
from modeling_srlm.store_srlm import DTYPES

from .contentless import run
from .memory import storage_of


def store_bytes(language_model: Any, chunk_size: int, dtype: str | None) -> int:
    """Bytes of a chunk's keys and values in all layers, as the store lays them out; None is the states' own type.

    Raises ValueError for a backbone whose states cannot be used again, as far as that is seen without weights.
    """
    check_family(language_model)
    groups = state_shapes(language_model)
    return slot_parts(groups, chunk_size, None if dtype is None else DTYPES[dtype])[1]


def state_shapes(language_model: Any) -> list[StateGroup]:
    """What the layers of a backbone keep of a token, those of one shape together; how it moves is not known.

    Raises ValueError where positions are in what is kept as values: DeepSeek-V3 has them there, and a latent as keys.
    """
    ((layers, in_values),) = run(language_model, (2,), _cached, mask=False)
    if in_values:
        family = language_model.config.get_text_config().model_type
        raise ValueError(
            f"reuse_states=True is not possible with a {family!r} backbone: {IN_VALUES}. Leave "
            "--reuse_states out, or plan one with rotary keys, such as a Llama or Qwen."
        )
    found: dict[Any, list[int]] = {}
    for number, layer in enumerate(layers):
        keys, rotation = layer.keys, None
        kind = (keys.shape[1], keys.shape[-1], layer.values.shape[-1], keys.dtype, keys.device, rotation)
        found.setdefault(kind, []).append(number)
    return [StateGroup(tuple(numbers), *kind) for kind, numbers in found.items()]


def _cached(there: Any, inputs: dict[str, torch.Tensor]) -> tuple[list[Any], bool]:
    """(layers of the cache, whether rotary frequencies reach the values of the first, which is given no positions)."""
    there.eval()
    cache = DynamicCache()
    rotary = [one for name, one in there.named_buffers() if name.endswith("inv_freq")]
    with torch.no_grad(), _Reached(rotary) as reached:
        there(**inputs, past_key_values=cache, use_cache=True)
    layers: list[Any] = list(cache.layers)
    return layers, layers[0].values in reached


class _Reached(TorchDispatchMode):
    """Which tensors some others had a part in, while it is on."""

    def __init__(self, sources: list[torch.Tensor]):
        super().__init__()
        self.kept = list(sources)  # so that no other storage gets the place of one of theirs
        self.storages = {storage_of(one) for one in sources}

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return storage_of(tensor) in self.storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = ([one for one in tree_leaves(part) if isinstance(one, torch.Tensor)]
                       for part in ((args, kwargs), result))  # fmt: skip
        self.kept += made
        if any(one in self for one in given):
            self.storages |= {storage_of(one) for one in made}
        return result
