"""Generation: transformers' own `generate`, with retrieval anew at each chunk boundary.

The document so far is laid on the grid that ends where the prompt ends. New tokens come in blocks of `target_size`
(default: half of the window); within a block the window's start stays, as it does where `forward` scores the block.
So `forward` gives generated tokens the probabilities that they were drawn with when it is told the prompt's length;
without that it lays the grid from the row's end, which is the same where `target_size` divides their number.
"""

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig
from transformers.generation import GenerateBeamDecoderOnlyOutput

from .checks_srlm import generation_numbers, typed
from .generation_state_srlm import RetrievalState
from .inputs_srlm import check_inputs
from .kept_states_srlm import keep_states, start_reusing
from .lookup_srlm import MAX_GUESSES
from .planning_srlm import Plan

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM

# What works on the backbone's own sequence, cache or states, and so cannot work across retrievals. (Contrastive search
# and other ways of decoding whose code transformers loads from the Hub ask for `trust_remote_code`.)
_UNSUPPORTED = (
    "assistant_early_exit", "assistant_model", "cache_implementation", "cache_position", "custom_generate",
    "guidance_scale", "inputs_embeds", "logits_to_keep", "output_attentions", "output_hidden_states",
    "past_key_values", "position_ids", "prefill_chunk_size", "trust_remote_code", "use_mtp",
)  # fmt: skip
_OUTPUTS = ("output_attentions", "output_hidden_states")  # which only return_dict_in_generate shows
_OURS = ("dynamic", "hybrid")  # kinds of cache in a repo's file in place of which ours may stand
DEFAULT_NEW_TOKENS = 20  # as in transformers


def prepare_generation(
    model: "SelfRetrievalLM",
    inputs: torch.Tensor | None,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    given: GenerationConfig | None,
    kwargs: dict[str, Any],
) -> tuple[torch.Tensor, GenerationConfig | None, dict[str, Any]]:
    """What transformers' own `generate` takes: prompts (B, L), padded on the left, generation_config and keywords."""
    if inputs is not None and input_ids is not None:
        raise ValueError("generate has inputs and input_ids, two names of the prompts; give one of them.")
    input_ids = input_ids if inputs is None else inputs
    typed("generation_config", given, GenerationConfig | None)
    kwargs = generation_numbers(kwargs)
    _check_generation(model, given, kwargs)
    if input_ids is None:
        raise ValueError("generate has no input_ids; give prompts of shape (batch, length), at least one token.")
    check_inputs(input_ids, attention_mask, None, model.config.get_text_config().vocab_size, model._one_device)
    plan = Plan.of(model)
    if attention_mask is not None:
        input_ids, attention_mask = _padded_left(input_ids, attention_mask)
    length = {"max_new_tokens": DEFAULT_NEW_TOKENS} if _length_is_open(given, model.generation_config, kwargs) else {}
    kwargs = with_tokenizer(model, given, kwargs)
    state = _start(model, plan, input_ids.shape, given or model.generation_config, kwargs)
    ours = {"attention_mask": attention_mask, "past_key_values": state}
    settled = {**length, "prompt_lookup_num_tokens": None}  # transformers' own lookup works on one sequence
    if given is None or model.generation_config.prompt_lookup_num_tokens is not None:
        return input_ids, given, {**kwargs, **settled, **ours}
    given = copy.deepcopy(given)  # beside which keywords of ours would be warned about
    given.update(**settled)
    kwargs.pop("prompt_lookup_num_tokens", None)
    return input_ids, given, {**kwargs, **ours}


def _start(
    model: "SelfRetrievalLM", plan: Plan, shape: torch.Size, settings: GenerationConfig, kwargs: dict[str, Any]
) -> RetrievalState:
    use_cache = kwargs.get("use_cache", settings.use_cache) is not False
    given = [kwargs.get("prompt_lookup_num_tokens"), settings.prompt_lookup_num_tokens]
    guesses = next((number for number in given if number is not None), MAX_GUESSES)
    if not plan.config.reuse_states:
        return RetrievalState(plan, shape[1], use_cache, guesses)
    if not use_cache:
        raise ValueError(
            "use_cache=False computes all states anew for each token, and reuse_states=True keeps them: leave "
            "use_cache out, or set model.config.reuse_states to False."
        )
    return start_reusing(model, plan, shape, guesses)


def finish_generation(model: "SelfRetrievalLM", state: RetrievalState, found: Any) -> Any:
    """What transformers' own `generate` returned, its `retrievals` those of the sequences that came out of it."""
    if isinstance(found, GenerateBeamDecoderOnlyOutput) and found.beam_indices is not None:
        state.follow_beams(found.beam_indices)
    return keep_states(model, state, found)


def option(model: "SelfRetrievalLM", name: str, given: GenerationConfig | None, kwargs: dict[str, Any]) -> Any:
    """An option of `generate`: a keyword, or of the generation_config that is given, or of the model's own."""
    if name in kwargs:
        return kwargs[name]
    value = getattr(given, name, None)
    return getattr(model.generation_config, name, None) if value is None else value


def with_tokenizer(model: "SelfRetrievalLM", given: GenerationConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `generate`, with the tokenizer where the text is to end at strings."""
    if option(model, "stop_strings", given, kwargs) is None:
        return kwargs
    return {"tokenizer": model.tokenizer, **kwargs}


def refuse_continuous_batching(*_: Any, **__: Any) -> Any:
    """In place of transformers' `init_continuous_batching`, through which `generate_batch` goes, too."""
    raise ValueError(
        "continuous batching (generate_batch, init_continuous_batching) fills the backbone's own cache and not across "
        "retrievals: use generate, which takes a batch of prompts, or model.language_model.generate_batch."
    )


def _check_generation(model: "SelfRetrievalLM", given: GenerationConfig | None, kwargs: dict[str, Any]) -> None:
    if option(model, "is_assistant", given, kwargs):
        raise ValueError(
            "a SelfRetrievalLM cannot be the assistant_model of another model: what it reads between retrievals is "
            "not taken back token by token. Give its language_model as assistant_model."
        )
    if model.config.retrieval_method == "oracle":
        raise ValueError(
            "retrieval_method 'oracle' needs the target, which generation does not know; set "
            "model.config.retrieval_method to another one, such as 'bm25'."
        )
    shows = option(model, "return_dict_in_generate", given, kwargs)
    for name in _UNSUPPORTED:
        value = option(model, name, given, kwargs)
        own = name not in kwargs and getattr(given, name, None) is None
        if own and ((name in _OUTPUTS and not shows) or (name == "cache_implementation" and value in _OURS)):
            continue
        if value is not None and value is not False and not (name == "guidance_scale" and value == 1):
            shown = value if isinstance(value, int | float | str) else type(value).__name__
            fix = f"set model.generation_config.{name} to None" if own else "leave it out"
            raise ValueError(
                f"generate got {name}={shown}, which works on the backbone's own sequence and not across retrievals; "
                f"{fix}, or use model.language_model.generate."
            )
    if given is not None:
        generation_numbers(given.to_diff_dict())


def _length_is_open(given: GenerationConfig | None, default: GenerationConfig, kwargs: dict[str, Any]) -> bool:
    names = ("max_new_tokens", "max_length")
    return not any(kwargs.get(name) or getattr(given, name, None) or getattr(default, name, None) for name in names)


def _padded_left(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same rows with their padding moved to the left."""
    order = mask.bool().long().argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)
