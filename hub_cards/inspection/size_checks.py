"""Whether a configuration asks for a model of the size that the weights have, told by the files' headers alone."""

import math
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

from .findings import REFUSED, WARNING, Finding
from .safetensors_headers import Shapes

# Model type -> where the tensors of each nested configuration lie.
PARTS = {
    "lookback_biencoder": {"text_config": "backbone."},
    "lookback_llara": {"text_config": "backbone."},
    "lookback_srlm": {"text_config": "language_model.", "retriever_config": "retriever."},
}
_WIDTHS = (
    "hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size", "vocab_size", "intermediate_size",
    "moe_intermediate_size", "n_inner", "ffn_dim", "d_ff", "head_dim", "num_attention_heads", "num_key_value_heads",
    "n_head", "num_experts", "num_local_experts", "n_routed_experts",
)  # fmt: skip
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
LARGEST = 2**31  # no length, width or count of a model is larger
SLACK = 4  # layers may share weights, and quantised weights are packed, two or four in one number


def check_sizes(name: str, config: dict[str, Any], shapes: Shapes | None) -> Iterator[Finding]:
    """What a model's configuration would allocate beyond its weights; `shapes` is None where a base brings them."""
    for path, number in _numbers(config):
        if number > LARGEST:
            yield Finding(REFUSED, name, f"{path} is {number:,}: no model has that size.")
    if shapes is None:
        return
    if not shapes:
        yield Finding(WARNING, name, "describes a model, and the repo holds no weights as safetensors.")
        return
    for key, prefix in PARTS.get(str(config.get("model_type")), {"": ""}).items():
        part = config.get(key) if key else config
        if isinstance(part, dict):
            held = {tensor: shape for tensor, shape in shapes.items() if tensor.startswith(prefix)} or shapes
            yield from _check_part(name, f"{key}." if key else "", part, held)
    counts = {key: config.get(key) for key in ("num_summary_tokens", "num_predict_tokens", "pooling_k", "key_num")}
    for key, value in {**counts, **_dense_widths(config)}.items():
        if _is_size(value) and value > SLACK * _largest(shapes):
            yield Finding(
                REFUSED, name, f"{key} is {value:,}, of a model whose largest width is {_largest(shapes):,}."
            )


def _dense_widths(config: dict[str, Any]) -> dict[str, Any]:
    """The widths of the dense layers behind a pooling, of a bi-encoder or of a nested retriever."""
    layers = [*_layers_of(config), *_layers_of(config.get("retriever_settings"))]
    return {f"dense {i} {key}": value for i, layer in enumerate(layers) for key, value in layer.items()}


def _layers_of(config: Any) -> list[dict[str, Any]]:
    dense = config.get("dense") if isinstance(config, dict) else None
    return [layer for layer in dense if isinstance(layer, dict)] if isinstance(dense, list) else []


def _check_part(name: str, where: str, config: dict[str, Any], shapes: Shapes) -> Iterator[Finding]:
    largest, layers = _largest(shapes), _layers(shapes)
    for key in _WIDTHS:
        value = config.get(key)
        if _is_size(value) and value > SLACK * largest:
            message = f"{where}{key} is {value:,}, and the largest width of the weights is {largest:,}."
            yield Finding(REFUSED, name, message)
    for key in _LAYERS:
        value = config.get(key)
        if layers is not None and _is_size(value) and value > layers:
            message = f"{where}{key} is {value:,}, and the number of layers of the weights is {layers:,}."
            yield Finding(REFUSED, name, message)
    wanted, held = least_elements(config), sum(math.prod(shape) for shape in shapes.values())
    if wanted > SLACK * held:
        message = f"{where or 'it '}asks for {wanted:,} numbers or more, and the weights hold {held:,}."
        yield Finding(REFUSED, name, message)


def least_elements(config: dict[str, Any]) -> int:
    """A number of weights that a transformer of this configuration does not fall short of by much."""

    def first(*names: str) -> int:
        return next((value for name in names if _is_size(value := config.get(name))), 0)

    width, layers = first("hidden_size", "n_embd", "d_model"), first(*_LAYERS)
    inner = first("intermediate_size", "n_inner", "ffn_dim", "d_ff")
    return first("vocab_size") * width + layers * 2 * width * max(width, inner)


def _is_size(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, path)
    elif _is_size(value) and not path.endswith("seed"):
        yield path, value


def _largest(shapes: Shapes) -> int:
    return max((width for shape in shapes.values() for width in shape), default=0)


def _layers(shapes: Shapes) -> int | None:
    """Layers by the tensors' names (`layers.3.`); None where they have no numbers."""
    numbers = [int(found[1]) for name in shapes if (found := re.search(r"\.(\d{1,9})\.", name))]
    return max(numbers) + 1 if numbers else None
