"""What the backward pass needs of the forward pass, in bytes: off the model's own code on tensors without contents.

A row of S tokens keeps a S + b S^2 in each layer (b where an attention mask is kept), and as much again in another
measure outside the layers.
"""

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM

from .build import body_of, has_plain_head, text_config_of
from .contentless import by_layers, per_length
from .memory import kept_bytes
from .shapes import Rows, Shapes


@dataclass(frozen=True)
class Kept:
    """Bytes as numbers of (1, S, S^2): of the whole backbone, and of a layer of each kind of layers."""

    whole: np.ndarray
    layers: list[np.ndarray]

    def of(self, rows: tuple[Rows, ...], copies: bool = True) -> float:
        """Of rows that are all kept; without `copies` of weights, which do not grow with the rows."""
        return _of(self.whole, rows, copies)

    def of_layer(self, rows: tuple[Rows, ...], copies: bool = True) -> float:
        """Of the same in one layer, that keeps most."""
        return max(_of(layer, rows, copies) for layer in self.layers)


def _of(numbers: np.ndarray, rows: tuple[Rows, ...], copies: bool) -> float:
    grown = sum(one.count * (numbers[1] * one.length + numbers[2] * one.length**2) for one in rows)
    return float((numbers[0] if copies else 0) + grown)


def kept_of(model: Any, bf16: bool, checkpointing: bool) -> Kept:
    """What the layers of a model keep of a row."""
    mask = not isinstance(model, SelfRetrievalLM)  # whose inputs are padded behind what is scored
    prepare, measure = _enable_checkpointing if checkpointing else None, partial(_kept_of_row, bf16)
    return Kept(*by_layers(body_of(model), lambda part: per_length(part, measure, mask, prepare)))


def head_bytes(model: Any, shapes: Shapes, plain: bool, gpus: int = 1) -> float:
    """What losses over the vocabulary keep; a bi-encoder's embeddings of all devices, and its queries' scores of them.

    Args:
        plain: see `has_plain_head`.
    """
    config = text_config_of(model)
    vocabulary, width, size = config.vocab_size, config.hidden_size, torch.finfo(model.dtype).bits // 8
    scored = sum(one.count * one.scored for one in shapes.at_once)
    if isinstance(model, SelfRetrievalLM):  # log-softmax in float32, and the states behind them
        return scored * (4 * vocabulary + size * width)
    if isinstance(model, LlaraForPreTraining):
        words = (
            shapes.rows[0].count * vocabulary * (4 * shapes.words + 2 * 9)
        )  # logits, their largest, log-softmax, set
        return scored * size * width + words + (4 * vocabulary * width if plain else 0)
    queries, passages = (one.count for one in shapes.rows)
    return 4 * (2 * queries * passages * gpus + (2 + gpus) * (queries + passages) * width)


def activation_bytes(
    model: Any, shapes: Shapes, bf16: bool, checkpointing: bool, gpus: int = 1, copies: bool = True
) -> int:
    """The most that is kept at one time; with checkpointing one layer's are there beside the layers' inputs.

    Args:
        gpus: devices whose passages serve a bi-encoder's queries as negatives.
        copies: with bf16, of the weights, as autocast makes and keeps them; `fsdp` casts the shares instead.
    """
    kept = kept_of(model, bf16, checkpointing)
    most = kept.of(shapes.at_once, copies)
    if checkpointing:
        whole = kept_of(model, bf16, False)
        most += max(whole.of_layer((one,), copies) for one in shapes.at_once)
    return round(most + head_bytes(model, shapes, has_plain_head(model, bf16), gpus))


def _enable_checkpointing(there: Any) -> None:
    """As it would be; without checkpointing no cache would mean a mask here."""
    there.config.use_cache = False
    with warnings.catch_warnings():  # of its new name, which transformers 5.20 does not have
        warnings.simplefilter("ignore", FutureWarning)
        there.gradient_checkpointing_enable({"use_reentrant": False})


def _kept_of_row(bf16: bool, there: Any, inputs: dict[str, Any]) -> int:
    def forward() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return there(**inputs)[0]

    return kept_bytes(there, forward)
