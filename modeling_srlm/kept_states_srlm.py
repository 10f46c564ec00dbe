"""What a call of `generate` leaves to the next one, with `reuse_states`: a text that goes on is not read again."""

import weakref
from inspect import get_annotations
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .configuration_srlm import RETRIEVER_METHODS
from .holdings_srlm import Holdings, digest_of
from .planning_srlm import Plan
from .reuse_state_srlm import ReuseState

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM


def start_reusing(model: "SelfRetrievalLM", plan: Plan, shape: torch.Size, max_guesses: int) -> ReuseState:
    """The state of a call of `generate` for prompts of this shape: for a single one that which the last call left,
    where weights and settings are still the same."""
    # One step, so that of two threads only one goes on from it. `keep_states` gives it back when all went well.
    kept = vars(model).pop("_kept_states", None)
    state = ReuseState(plan, shape[1], max_guesses)
    if shape[0] == 1:
        makers = _makers(model)
        state.numbers = tuple(map(_numbers, makers.modules))
        ours = kept is not None and kept.model() is model  # a shallow copy refers to those of another
        if ours and kept.state.numbers == state.numbers and kept.made_by == _made_by(model, makers):
            state.go_on_from(kept.state)
    return state


def keep_states(model: "SelfRetrievalLM", state: Any, generated: Any) -> Any:
    """`generated`; lets the next call of `generate` go on from a single text that this one has read."""
    if isinstance(state, ReuseState) and state.stream is not None and len(state.stream.rows) == 1:
        state.drop_guesses()
        if (makers := _makers(model)).digest is not None:
            model._kept_states = KeptStates(model, _made_by(model, makers), state)
    return generated


class KeptStates:
    """What a call has read, and what made it. A copy of the model, and a pickle, has none."""

    def __init__(self, model: "SelfRetrievalLM", made_by: tuple[Any, ...], state: ReuseState):
        self.model, self.made_by, self.state = weakref.ref(model), made_by, state

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return type(None), ()


def _makers(model: "SelfRetrievalLM") -> Holdings:
    """What computes states, and where the method has one, what chooses by the text those that are looked back at."""
    chooses = model.config.retrieval_method in RETRIEVER_METHODS
    return Holdings(model.language_model, *((model.retriever, model.tokenizer) if chooses else ()))


def _made_by(model: "SelfRetrievalLM", makers: Holdings) -> tuple[Any, ...]:
    """What states depend on beside the numbers of weights: settings, adapters, code, and how they are computed."""
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
    return named, tuple(map(_code, makers.modules)), makers.digest, adapters, computed


def _code(module: nn.Module) -> tuple[Any, ...]:
    """What a model's weights go through: its parts, the hooks on them, and a `forward` that was put on one.

    A hook is known by its handle's number, which no other one ever has; not by what it does, which may change.
    """
    return tuple(
        (id(part), *part._forward_pre_hooks, None, *part._forward_hooks, id(vars(part).get("forward")))
        for part in module.modules()
    )


def _numbers(module: nn.Module) -> tuple[Any, ...]:
    """A model's weights and buffers by all their numbers, as `weight.data` can be written to without a new version;
    and by their versions, which weights have that are no plain tensors, such as quantised ones."""
    weights = [weight for weight in module.parameters() if weight.device.type != "meta"]
    known = tuple((id(weight), -1 if weight.is_inference() else weight._version) for weight in weights)
    plain = [part.detach() for part in (*weights, *module.buffers()) if type(part) in (nn.Parameter, torch.Tensor)]
    kinds = tuple((part.dtype, part.shape) for part in plain)
    return known, kinds, digest_of(part for part in plain if part.numel() and part.device.type != "meta")
