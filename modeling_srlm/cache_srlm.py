"""A key-value cache of fixed capacity: an input has a bounded length, so nothing need grow token by token."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from .scoring_srlm import evaluating


class BoundedLayer(DynamicLayer):
    """A cache layer that writes into memory taken once, where `DynamicLayer` copies all it has for every token.

    `keys` and `values` are views of what is written, (rows, heads, length, head size).
    """

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity
        self.memory: tuple[torch.Tensor, torch.Tensor] | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        if self.memory is None or len(self.memory[0]) != len(key_states):
            keys, values = (
                states.new_empty(*states.shape[:2], self.capacity, states.shape[-1])
                for states in (key_states, value_states)
            )
            self.memory = keys, values
        self.keys, self.values = (part[:, :, :0] for part in self.memory)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new states behind the others and returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.memory is not None
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for memory, states in zip(self.memory, (key_states, value_states), strict=True):
            memory[:, :, start:end] = states
        self.keys, self.values = (part[:, :, :end] for part in self.memory)
        return self.keys, self.values

    def reset(self) -> None:
        """Empties the layer; the memory stays."""
        self.keys = self.values = None
        self.is_initialized = False

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back the last -`tokens_to_remove` tokens."""
        if self.memory is not None and self.is_initialized and tokens_to_remove < 0:
            end = self.get_seq_length() + tokens_to_remove
            self.keys, self.values = (part[:, :, :end] for part in self.memory)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Rows in the order of beam search."""
        length = self.get_seq_length()
        if self.memory is None or not length:
            return
        for memory in self.memory:
            memory[:, :, :length] = memory[:, :, :length].index_select(0, beam_idx.to(memory.device))


def renew_layers(config: Any, capacity: int, layers: Sequence[Any]) -> list[Any]:
    """Empty layers for a backbone of this config, those that would grow without end bounded by `capacity`.

    Of the former `layers` (none at first) the bounded ones are used again; sliding windows and others are made anew.
    """
    fresh = [
        BoundedLayer(capacity) if type(layer) is DynamicLayer else layer
        for layer in DynamicCache(config=config).layers
    ]
    kept = {number: layer for number, layer in enumerate(layers) if isinstance(layer, BoundedLayer)}
    for layer in kept.values():
        layer.reset()
    return [kept.get(number, layer) for number, layer in enumerate(fresh)]


def keeps_past(language_model: Any) -> bool:
    """Whether a backbone that is given this cache goes on from it.

    Some families have no such cache, and read what is new as if nothing stood before it. Those that carry a state of
    another kind beside keys and values are tried: a few tokens, the last of them by itself.
    """
    parameters = inspect.signature(language_model.forward).parameters
    if "past_key_values" not in parameters:
        return False
    config, device = language_model.config.get_text_config(), language_model.device
    others = {*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"}
    if not (others or getattr(language_model, "_is_stateful", False)):
        return True
    ids = torch.tensor([[(7 + 31 * place) % config.vocab_size for place in range(6)]], device=device)
    places = torch.arange(ids.shape[1], device=device)[None]
    given: dict[str, Any] = {"past_key_values": DynamicCache(config=config), "use_cache": True}
    try:
        with evaluating(language_model):
            whole = language_model(input_ids=ids, use_cache=False).logits[:, -1].float()
            for part in (slice(0, 5), slice(5, 6)):
                if "position_ids" in parameters:
                    given["position_ids"] = places[:, part]
                last = language_model(input_ids=ids[:, part], **given).logits[:, -1].float()
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return False
    return bool((last - whole).norm() <= 0.05 * whole.norm())
