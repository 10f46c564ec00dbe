"""Generation: transformers' own `generate`, with retrieval anew at each chunk boundary.

The document so far is laid on the grid that ends where the prompt ends. New tokens come in blocks of `target_size`
(default: half of the window); within a block the window's start stays, as it does where `forward` scores the block,
so `forward` gives generated tokens the probabilities that they were drawn with.
"""

from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin

from .chunking_srlm import half_window
from .generation_state_srlm import RetrievalState
from .inputs_srlm import check_inputs
from .lookup_srlm import MAX_GUESSES
from .output_srlm import SelfRetrievalOutput

# What works on the backbone's own sequence, cache or states, and so cannot work across retrievals.
_UNSUPPORTED = (
    "assistant_model", "cache_implementation", "custom_generate", "guidance_scale", "inputs_embeds",
    "output_attentions", "output_hidden_states", "past_key_values", "prefill_chunk_size",
)  # fmt: skip
DEFAULT_NEW_TOKENS = 20  # as in transformers


class LookbackGenerationMixin(GenerationMixin):
    """`generate` for [`SelfRetrievalLM`]: transformers' own loop over the whole document, which each step sees through
    what it retrieved and the window."""

    config: Any
    device: Any
    language_model: Any
    _check_components: Any
    _replaces: bool

    def generate(  # type: ignore[override]  # transformers' other arguments pass through
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        attention_mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, retrieving anew after every `chunk_size` new tokens, in memory that the window bounds.

        Args:
            input_ids (or `inputs`): (B, L) prompts of any length. attention_mask: (B, L); prompts that are padded on
                the right come back padded on the left.
            generation_config, kwargs: those of transformers' `generate`: sampling, beams, stopping criteria, streamer,
                `num_return_sequences`, ... `prompt_lookup_num_tokens`: tokens to guess ahead for a single prompt, from
                what followed the same words in the input before (default 8; 0 for none). It saves time and changes
                nothing: a guess counts if it is what is then chosen, by whatever way of choosing.

        Returns what transformers' `generate` returns: (B, L + new) ids, or with `return_dict_in_generate` an output
        whose `past_key_values.retrievals` says what was retrieved when.
        Raises ValueError for `retrieval_method` "oracle", which needs the target, and for arguments that work on the
        backbone's own sequence, such as assisted decoding.
        """
        ids = input_ids if inputs is None else inputs
        if ids is None:
            raise ValueError("generate has no input_ids; give prompts of shape (batch, length), at least one token.")
        check_inputs(ids, attention_mask, None, self.config.text_config.vocab_size, self.device)
        self._check_components()
        _check_generation(self.config, generation_config, kwargs)
        if attention_mask is not None:
            ids, attention_mask = _padded_left(ids, attention_mask)
        if _length_is_open(generation_config, self.generation_config, kwargs):
            kwargs["max_new_tokens"] = DEFAULT_NEW_TOKENS
        settings = generation_config or self.generation_config
        use_cache = kwargs.get("use_cache", settings.use_cache) is not False
        given = [kwargs.get("prompt_lookup_num_tokens"), settings.prompt_lookup_num_tokens]
        guesses = next((number for number in given if number is not None), MAX_GUESSES)
        kwargs["prompt_lookup_num_tokens"] = None  # not transformers' own, which works on one sequence
        state = RetrievalState(self, ids.shape[1], use_cache, guesses)
        transformers: Any = super()  # the class it is mixed into is a PreTrainedModel
        return transformers.generate(
            ids, generation_config, attention_mask=attention_mask, past_key_values=state, **kwargs
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        past_key_values: Any = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """The whole document so far: retrieval looks back at all of it."""
        return {"input_ids": input_ids, "past_key_values": past_key_values, "attention_mask": attention_mask}

    def _generation_block(self) -> int:
        """Tokens that one window start serves."""
        config = self.config
        room = config.max_target_size if self._replaces else config.context_window_size - config.chunk_size
        return config.target_size or half_window(config.context_window_size, config.chunk_size, room)

    def _continue(self, input_ids: torch.Tensor, attention_mask: Any, state: RetrievalState) -> SelfRetrievalOutput:
        return SelfRetrievalOutput(logits=state.next_logits(input_ids, attention_mask), past_key_values=state)


def _check_generation(config: Any, given: GenerationConfig | None, kwargs: dict[str, Any]) -> None:
    if config.retrieval_method == "oracle":
        raise ValueError(
            "retrieval_method 'oracle' needs the target, which generation does not know; set "
            "model.config.retrieval_method to another one, such as 'bm25'."
        )
    for name in _UNSUPPORTED:
        value = kwargs.get(name, getattr(given, name, None))
        if value not in (None, False, 1):
            shown = value if isinstance(value, int | float | str) else type(value).__name__
            raise ValueError(
                f"generate got {name}={shown}, which works on the backbone's own sequence and not across retrievals; "
                f"leave it out, or use model.language_model.generate."
            )
    new_tokens = kwargs.get("max_new_tokens", getattr(given, "max_new_tokens", None))
    if new_tokens is not None and new_tokens < 1:
        raise ValueError(f"max_new_tokens is {new_tokens}; it must be at least 1.")


def _length_is_open(given: GenerationConfig | None, default: GenerationConfig, kwargs: dict[str, Any]) -> bool:
    names = ("max_new_tokens", "max_length")
    return not any(kwargs.get(name) or getattr(given, name, None) or getattr(default, name, None) for name in names)


def _padded_left(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same rows with their padding moved to the left."""
    order = mask.bool().long().argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)
