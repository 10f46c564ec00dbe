"""Keys that move: which layers' keys can be taken from one position to another, and how. Proven by behaviour.

A rotary key is rotated by its position times the backbone's inverse frequencies, and rotations compose: a key of
position p becomes that of p' by one more rotation, by p' - p. Whether that holds for a backbone is not looked up by
its name: some tokens are read at several positions, and moved keys have to equal those that were read there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from .placement_srlm import to_inputs
from .scoring_srlm import evaluating

TOLERANCE = 1e-4  # of a key, relative to the largest one, in float32
ROUGH_TOLERANCE = 0.05  # of keys in half precision, whose layers round differently at each position
EXACT_POSITIONS = 512  # up to here; in float32 an angle is as exact as its position is small
PROBE_LENGTH = 6
NO_ROTATION = "its keys are not rotated by their position, or by no inv_freq that it holds"
IN_VALUES = "its positions are in what it keeps as values, which stay as they are where keys are moved"


@dataclass(frozen=True)
class Rotation:
    """What position does to a key of `2 * n` rotated channels from channel `start` on.

    `frequencies` (n,) in float64 on the CPU, radians a position. `interleaved`: channels 2i and 2i + 1 are a pair, not
    i and n + i.
    """

    frequencies: torch.Tensor
    start: int
    interleaved: bool

    def move_(self, keys: torch.Tensor, shifts: Sequence[int]) -> torch.Tensor:
        """Moves keys (m, ..., head size), those of each index by its own number of positions, in place.

        Of keys with a gradient a clone is moved: it goes through.
        """
        angles = torch.tensor(list(shifts), dtype=torch.float64)[:, None] * self.frequencies
        shape = len(shifts), *[1] * (keys.ndim - 2), -1
        exact = torch.promote_types(keys.dtype, torch.float32)
        cos, sin = (part.to(keys.device, exact).view(shape) for part in (angles.cos(), angles.sin()))
        first, second = self._pairs(keys)
        moved = first * cos
        moved.addcmul_(second.to(exact), sin, value=-1)
        other = second * cos
        other.addcmul_(first.to(exact), sin)
        first.copy_(moved)
        second.copy_(other)
        return keys

    def write(self, keys: torch.Tensor, shift: int, out: torch.Tensor) -> None:
        """Writes keys (..., head size), moved by `shift` positions, into other memory of their shape."""
        if not (keys.dtype == out.dtype == torch.float32 and keys.device == out.device):
            self.move_(out.copy_(keys)[None], [shift])
            return
        angles = shift * self.frequencies
        cos, sin = angles.cos().to(out), angles.sin().to(out)
        (first, second), (new_first, new_second) = self._pairs(keys), self._pairs(out)
        torch.mul(first, cos, out=new_first).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=new_second).addcmul_(first, sin)
        end = self.start + 2 * len(self.frequencies)
        out[..., : self.start] = keys[..., : self.start]
        out[..., end:] = keys[..., end:]

    def _pairs(self, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The two views of the rotated channels whose members at one index are a pair."""
        half = len(self.frequencies)
        rotated = keys[..., self.start : self.start + 2 * half]
        if self.interleaved:
            return rotated[..., ::2], rotated[..., 1::2]
        return rotated[..., :half], rotated[..., half:]


@dataclass(frozen=True)
class StateGroup:
    """Layers whose keys and values have one shape, place and rotation, so that all are moved at once.

    `rotation` is None where keys do not depend on position.
    """

    layers: tuple[int, ...]
    heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype
    device: torch.device
    rotation: Rotation | None

    @property
    def numbers(self) -> int:
        """Numbers of one token's keys and values."""
        return len(self.layers) * self.heads * (self.key_size + self.value_size)


def state_groups(language_model: Any, positions: int) -> list[StateGroup]:
    """The groups of a backbone whose keys move, proven for positions below `positions`.

    Raises ValueError that names the family where keys do not move, and where there are none.
    """
    try:
        check_family(language_model)
        starts = [0, 17, max(positions - PROBE_LENGTH, 1)]
        read = _read_at(language_model, starts)
        tried = _rotations(language_model, read[0][0].keys.shape[-1])
        rotations = [_rotation_of(tried, list(layers), starts) for layers in zip(*read, strict=True)]
        if all(rotation is None for rotation in rotations):
            raise _Unfit(NO_ROTATION)
    except _Unfit as unfit:
        raise _refusal(language_model, unfit) from unfit
    return _grouped(read[0], rotations)


def check_family(language_model: Any) -> None:
    """Raises ValueError for a backbone whose states can certainly not be used again; it may be without weights."""
    try:
        _check_kind(language_model.config.get_text_config())
        if not any(name.endswith("inv_freq") for name, _ in language_model.named_buffers()):
            raise _Unfit(NO_ROTATION)
    except _Unfit as unfit:
        raise _refusal(language_model, unfit) from unfit


def _refusal(language_model: Any, why: Exception) -> ValueError:
    family = getattr(language_model.config.get_text_config(), "model_type", type(language_model).__name__)
    return ValueError(
        f"reuse_states=True is not possible with a {family!r} backbone: {why}. Set reuse_states=False, or take one "
        "with rotary keys, such as a Llama, Qwen, Mistral, Gemma or Phi."
    )


class _Unfit(Exception):
    """Why a backbone's states cannot be used again."""


def _read_at(language_model: Any, starts: list[int]) -> list[list[Any]]:
    """The cache's layers after the same few tokens at each of several positions; what they say has to be the same."""
    size = language_model.config.get_text_config().vocab_size
    ids = torch.tensor([[(7 + 31 * place) % size for place in range(PROBE_LENGTH)]], device=language_model.device)
    found: list[list[Any]] = []
    said: list[torch.Tensor] = []
    with evaluating(language_model):
        for start in starts:
            layers, logits = _read(language_model, ids, start)
            found, said = [*found, layers], [*said, logits]
            # What stands at other positions, but at the same distances, has to mean the same.
            if _distance(logits, said[0], logits.dtype) > _tolerance(logits.dtype, start):
                raise _Unfit("what it makes of a text depends on where the text stands (absolute positions)")
    return found


def _read(language_model: Any, ids: torch.Tensor, start: int) -> tuple[list[Any], torch.Tensor]:
    cache = DynamicCache()  # without the configuration: its layers keep all, those with a sliding window too
    placed, places = to_inputs(language_model, ids, torch.arange(start, start + ids.shape[1], device=ids.device)[None])
    arguments = {"input_ids": placed, "position_ids": places, "past_key_values": cache}
    try:
        logits = language_model(**arguments, use_cache=True, logits_to_keep=1).logits
    except (TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise _Unfit(f"it does not take position_ids and a cache ({reason})") from error
    layers: list[Any] = list(cache.layers)
    if len(layers) != language_model.config.get_text_config().num_hidden_layers:
        raise _Unfit("not each of its layers keeps keys and values of its own")
    for layer in layers:
        if type(layer) is not DynamicLayer or layer.keys is None or layer.keys.shape[-2:-1] != ids.shape[1:]:
            raise _Unfit("not each of its layers keeps the keys and values of all tokens")
    return layers, logits


def _check_kind(config: Any) -> None:
    """Raises for layers that keep no keys, share them, or see a text in pieces that begin at fixed positions."""
    if getattr(config, "num_kv_shared_layers", 0):
        raise _Unfit("its layers share keys and values with each other")
    kinds = set(getattr(config, "layer_types", None) or ())
    if strange := kinds - {"full_attention", "sliding_attention"}:
        raise _Unfit(f"it has layers of the kind {sorted(strange)[0]!r}")
    for layer in DynamicCache(config=config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise _Unfit(f"it has a cache of the kind {type(layer).__name__}")


def _rotation_of(rotations: list[Rotation | None], layers: list[Any], starts: list[int]) -> Rotation | None:
    """The rotation that takes a layer's keys of one position to those of all others."""
    wholes = [layer.keys.detach().to("cpu", torch.float64) for layer in layers]
    dtype = layers[0].keys.dtype
    if _worst(None, [layer.values.detach().to("cpu", torch.float64) for layer in layers], starts, dtype) > 1:
        raise _Unfit(IN_VALUES)
    worst = [_worst(rotation, wholes, starts, dtype) for rotation in rotations]
    if min(worst) > 1:
        raise _Unfit("keys that are moved to another position differ from those that are computed there")
    return rotations[worst.index(min(worst))]


def _worst(rotation: Rotation | None, keys: list[torch.Tensor], starts: list[int], dtype: torch.dtype) -> float:
    """The largest difference between moved and computed keys, as a multiple of what is tolerated."""
    worst = 0.0
    for other, start in zip(keys[1:], starts[1:], strict=True):
        moved = keys[0].clone()
        if rotation is not None:
            if rotation.start + 2 * len(rotation.frequencies) > moved.shape[-1]:
                return float("inf")
            rotation.move_(moved, [start - starts[0]])
        worst = max(worst, _distance(moved, other, dtype) / _tolerance(dtype, start))
    return worst


def _rotations(language_model: nn.Module, key_size: int) -> list[Rotation | None]:
    """What may be: none, and each set of inverse frequencies that the backbone has, on either kind of pairs."""
    found: list[Rotation | None] = [None]
    for name, buffer in language_model.named_buffers():
        if not name.endswith("inv_freq") or name.endswith("original_inv_freq") or buffer.ndim != 1:
            continue
        frequencies = buffer.detach().double().cpu()
        for start in sorted({0, max(key_size - 2 * len(frequencies), 0)}):
            found += [Rotation(frequencies, start, interleaved) for interleaved in (False, True)]
    return found


def _distance(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> float:
    """The largest difference relative to the largest number; in half precision that of the whole."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    if dtype in (torch.float32, torch.float64):
        return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


def _tolerance(dtype: torch.dtype, position: int) -> float:
    exact = dtype in (torch.float32, torch.float64)
    return TOLERANCE * max(1.0, position / EXACT_POSITIONS) if exact else ROUGH_TOLERANCE


def _grouped(layers: list[Any], rotations: list[Rotation | None]) -> list[StateGroup]:
    groups: dict[Any, list[int]] = {}
    for number, (layer, rotation) in enumerate(zip(layers, rotations, strict=True)):
        turn = (
            None if rotation is None else (tuple(rotation.frequencies.tolist()), rotation.start, rotation.interleaved)
        )
        shape = layer.keys.shape[1], layer.keys.shape[-1], layer.values.shape[-1]
        groups.setdefault((shape, layer.values.dtype, layer.values.device, turn), []).append(number)
    return [
        StateGroup(tuple(own), heads, key_size, value_size, dtype, device, rotations[own[0]])
        for ((heads, key_size, value_size), dtype, device, _), own in groups.items()
    ]
