"""An adapter merged into the weights, in place: afterwards no layer of the model knows that there was one."""

from collections import Counter
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.logging import tqdm


def merge_layers(model: PreTrainedModel) -> None:
    """Merge the adapter on a model into its weights, and take it out.

    Where the adapter changed the embeddings and not the head that is tied to them, or the head alone, the two are
    untied, and the configuration says so.

    Raises ValueError where merged weights are not finite, and for ties that such a model cannot do without.
    """
    layers = outermost(model)
    _unshare(model, [layer for _, layer in layers])
    for name, layer in tqdm(layers, desc="Merging", unit="layer", delay=2.0):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _merged(layer))
    del model.peft_config
    model._hf_peft_config_loaded = False
    _tie_equal(model)


def outermost(model: nn.Module) -> list[tuple[str, Any]]:
    """The adapted layers by name, without those inside another."""
    found: list[tuple[str, Any]] = []
    for name, module in model.named_modules():
        inside = bool(found) and name.startswith(f"{found[-1][0]}.")
        if is_adapted(module) and not inside:
            found.append((name, module))
    return found


def is_adapted(module: Any) -> bool:
    """Whether it is a layer of peft's, known by its bases' names: a repo's code does not ask for peft."""
    return any(base.__name__ in ("BaseTunerLayer", "AuxiliaryTrainingWrapper") for base in type(module).__mro__)


def unwrap_layers(model: nn.Module) -> None:
    """Take out layers of peft's that hold no adapter any more."""
    for name, layer in outermost(model):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _plain(layer))


def _plain(layer: Any) -> nn.Module:
    if not is_adapted(layer):
        return layer
    bare = getattr(layer, "original_module", None)
    return _plain(layer.get_base_layer() if bare is None else bare)


def _merged(layer: Any) -> nn.Module:
    """The layer without its adapters; of one around another that inside goes first, as its rows replace others."""
    if is_adapted(inside := getattr(layer, "base_layer", None)):
        layer.base_layer = _merged(inside)
    if hasattr(layer, "unload_and_optionally_merge_module"):
        return layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
    layer.merge(safe_merge=True)
    return layer.get_base_layer()


def _unshare(model: nn.Module, layers: list[nn.Module]) -> None:
    """Give adapted layers weights of their own: what is merged into one of two that are tied is not the other's."""
    holders = Counter(id(value) for module in model.modules() for value in module._parameters.values())
    for module in dict.fromkeys(inner for layer in layers for inner in layer.modules()):
        for name, value in module._parameters.items():
            if value is not None and holders[id(value)] > 1:
                module._parameters[name] = nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)


def _tie_equal(model: PreTrainedModel) -> None:
    """Tie again what is equal still; where a part's tied weights differ now, its configuration unties them."""
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    untied = [part for part in parts if not _ties_hold(part)]
    for part in untied:
        # The family's configuration repeats what its backbone's says.
        owners = [part, *(one for one in parts if one.config.get_text_config() is part.config)]
        for config in {id(owner.config): owner.config for owner in owners}.values():
            config.tie_word_embeddings = False
            config.get_text_config().tie_word_embeddings = False
    for part in parts:
        part.all_tied_weights_keys = part.get_expanded_tied_weights_keys(all_submodels=True)
    if not all(_ties_hold(part) for part in untied):
        raise ValueError(
            f"The adapter changed one of two weights that are tied in every {type(model).__name__} of this kind, and "
            "cannot be merged: load the model anew and keep the adapter beside it."
        )
    model.tie_weights()


def _ties_hold(part: PreTrainedModel) -> bool:
    ties = part.get_expanded_tied_weights_keys(all_submodels=False)
    return all(
        torch.equal(part.get_parameter_or_buffer(one), part.get_parameter_or_buffer(other))
        for one, other in ties.items()
    )
