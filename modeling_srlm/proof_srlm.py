"""The proof that a backbone's keys move, which is made once and stands for as long as what it was made on."""

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .moving_srlm import StateGroup, state_groups
from .store_srlm import most_chunks

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM


class Proof:
    """The groups of layers whose keys move, and what they were found on. A copy of the model, and a pickle, has none.

    `language_model` is known by itself and not by its `id`, which another one may have when it is gone.
    """

    def __init__(self, language_model: nn.Module, made_on: tuple[Any, ...], groups: list[StateGroup]):
        self.language_model, self.made_on, self.groups = weakref.ref(language_model), made_on, groups

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return type(None), ()


def proven_states(model: "SelfRetrievalLM") -> list[StateGroup] | None:
    """With `reuse_states`, the groups of layers whose keys move, proven once; ValueError where they do not."""
    if not model.config.reuse_states:
        return None
    language_model, proof = model.language_model, model._proven
    if proof is None or proof.language_model() is not language_model or proof.made_on != _made_on(model):
        with torch.autocast(model.device.type, enabled=False):  # as it would be proven when the model is built
            groups = state_groups(language_model, model.config.stream_positions)
        # What it reads may set the frequencies, so they are looked at afterwards.
        proof = model._proven = Proof(language_model, _made_on(model), groups)
    most_chunks(model.config, proof.groups)  # ValueError for a limit that is too small
    return proof.groups


def _made_on(model: "SelfRetrievalLM") -> tuple[Any, ...]:
    """What the rotation of keys depends on: a model in half precision and back again has other frequencies."""
    language_model = model.language_model
    turns = tuple(
        (name, tuple(buffer.flatten().tolist()))
        for name, buffer in language_model.named_buffers()
        if name.endswith("inv_freq")
    )
    return language_model.dtype, model.device, model.config.stream_positions, turns
