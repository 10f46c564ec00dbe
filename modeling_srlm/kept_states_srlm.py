"""What a call of `generate` leaves to the next one, with `reuse_states`: a text that goes on is not read again."""

from inspect import get_annotations
from typing import TYPE_CHECKING, Any

import torch

from .planning_srlm import Plan
from .reuse_state_srlm import ReuseState

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM


def start_reusing(model: "SelfRetrievalLM", plan: Plan, shape: torch.Size, max_guesses: int) -> ReuseState:
    """The state of a call of `generate` for prompts of this shape: for a single one that which the last call left,
    where weights and settings are still the same."""
    kept, model._kept_states = model._kept_states, None  # given back by `keep_states` when all went well
    state = ReuseState(plan, shape[1], max_guesses)
    if kept is not None and shape[0] == 1 and kept.made_by == _made_by(model):
        state.go_on_from(kept.state)
    return state


def keep_states(model: "SelfRetrievalLM", state: Any, generated: Any) -> Any:
    """`generated`; lets the next call of `generate` go on from a single text that this one has read."""
    if isinstance(state, ReuseState) and state.stream is not None and len(state.stream.rows) == 1:
        state.drop_guesses()
        model._kept_states = KeptStates(_made_by(model), state)
    return generated


class KeptStates:
    """What a call has read, and what made it. A copy of the model, and a pickle, has none."""

    def __init__(self, made_by: tuple[Any, ...], state: ReuseState):
        self.made_by, self.state = made_by, state

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return type(None), ()


def _made_by(model: "SelfRetrievalLM") -> tuple[Any, ...]:
    """What states depend on: settings, weights, adapters, and how they are computed."""
    settings = {name: getattr(model.config, name) for name in get_annotations(type(model.config))}
    parts = ("text_config", "retriever_config", "retriever_settings")
    named = tuple(sorted((name, repr(value)) for name, value in settings.items() if name not in parts))
    adapters = tuple(
        (repr(part.active_adapter), part.disable_adapters, repr(getattr(part, "scaling", None)))
        for part in model.language_model.modules()
        if hasattr(part, "disable_adapters") and hasattr(part, "active_adapter")
    )
    kind = model.device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    computed = model.language_model.training, autocast, torch.is_inference_mode_enabled()
    return named, _weights(model.language_model), _weights(model.retriever), adapters, computed


def _weights(module: Any) -> tuple[Any, ...]:
    """A model's weights, by what changes when they do: their place, their version, and some of their numbers, as
    `weight.data` can be written to without a new version."""
    if not isinstance(module, torch.nn.Module):
        return (id(module),)
    weights = [weight for weight in module.parameters() if weight.device.type != "meta"]
    known = [(id(weight), -1 if weight.is_inference() else weight._version) for weight in weights]
    plain = [weight.detach() for weight in weights if type(weight) is torch.nn.Parameter and weight.numel()]
    some = [weight.reshape(-1)[:: -(-weight.numel() // 8)].float() for weight in plain]
    numbers = torch.cat([part.to(some[0].device) for part in some]).tolist() if some else []
    places = tuple(weight.data_ptr() for weight in plain)  # a quantised one need not have any
    return id(module), weights[0].dtype if weights else None, tuple(known), places, tuple(numbers)
