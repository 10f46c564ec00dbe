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
    if kept is not None and shape[0] == 1 and kept[0] == _made_by(model):
        kept[1].begin(plan, shape[1], max_guesses)
        return kept[1]
    return ReuseState(plan, shape[1], max_guesses)


def keep_states(model: "SelfRetrievalLM", state: Any, generated: Any) -> Any:
    """`generated`; lets the next call of `generate` go on from a single text that this one has read."""
    if isinstance(state, ReuseState) and state.stream is not None and len(state.stream.rows) == 1:
        state.drop_guesses()
        model._kept_states = _made_by(model), state
    return generated


def _made_by(model: "SelfRetrievalLM") -> tuple[Any, ...]:
    """What states depend on: settings, weights, and the adapters that are at work."""
    settings = {name: getattr(model.config, name) for name in get_annotations(type(model.config))}
    parts = ("text_config", "retriever_config", "retriever_settings")
    named = tuple(sorted((name, repr(value)) for name, value in settings.items() if name not in parts))
    weights = tuple((id(weight), weight._version) for weight in model.language_model.parameters())
    adapters = tuple(
        (repr(part.active_adapter), part.disable_adapters)
        for part in model.language_model.modules()
        if hasattr(part, "disable_adapters") and hasattr(part, "active_adapter")
    )
    return id(model.language_model), id(model.retriever), named, weights, adapters
