"""What LLaRA asks of a backbone: loading it, its logits at chosen rows, new token rows, and a proof that it fits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .backbones_llara import load_backbone_weights, tokenizer_place
from .configuration_llara import LlaraConfig
from .loading_llara import split_keywords, tokenizer_keywords
from .masking_llara import (
    PREDICT,
    SUMMARIZE,
    check_attention,
    check_implementation,
    two_stream_mask,
    two_stream_positions,
)
from .placement_llara import check_at_hand, input_device, is_dispatched
from .prompts_llara import add_prompts
from .saving_llara import saved_whole
from .vocabulary_llara import check_fit, compare_given
from .vocabulary_llara import load_tokenizer as read_tokenizer


def adopt_backbone(
    backbone: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | str | None, keywords: dict[str, Any]
) -> tuple[LlaraConfig, PreTrainedModel, PreTrainedTokenizerBase | None]:
    """(configuration, causal LM, tokenizer) of a new model; arguments and errors as in `from_backbone`."""
    given, loading = split_keywords(keywords, LlaraConfig.keywords(), "from_backbone")
    check_implementation(loading.get("attn_implementation"))  # before transformers asks for its package
    source = str(backbone) if isinstance(backbone, Path) else backbone
    own_prompts = _has_prompts(given)
    settings = LlaraConfig(**given)  # wrong values raise before anything is loaded
    words = None if own_prompts and tokenizer is None else load_tokenizer(tokenizer, source, loading)
    decoder = load_backbone(source, **loading)
    if words is not None:
        check_fit(words, decoder.get_input_embeddings())
    if words is not None and not own_prompts:
        num_known = len(words)
        words, prompts = add_prompts(words, settings.num_summary_tokens, settings.num_predict_tokens)
        add_token_rows(decoder, list(range(num_known, len(words))), num_known)
        given = {**prompts, **given}
    check_backbone(decoder)
    attention = decoder.config._attn_implementation
    config = LlaraConfig(text_config=decoder.config, dtype=decoder.dtype, attn_implementation=attention, **given)
    return config, decoder, words


def _has_prompts(given: dict[str, Any]) -> bool:
    """Whether the prompts' ids are given; ValueError for those of one alone."""
    names = [name for name in ("summarize_prompt_ids", "predict_prompt_ids") if name in given]
    if len(names) == 1:
        raise ValueError(
            "only one of summarize_prompt_ids and predict_prompt_ids is given: pass both (an empty list for a "
            "prompt that is not used), or neither to have them made."
        )
    return bool(names)


def load_backbone(backbone: str | PreTrainedModel, **loading: Any) -> PreTrainedModel:
    """The causal LM of a repo id or path, or the one given; ValueError unless it is a decoder with an LM head."""
    if not isinstance(backbone, PreTrainedModel):
        return load_backbone(load_backbone_weights(AutoModelForCausalLM, backbone, loading))
    if loading:
        raise ValueError(
            f"{sorted(loading)} are for loading a backbone, but the backbone is a loaded {type(backbone).__name__}: "
            "pass them to its from_pretrained, or pass a repo id or path here."
        )
    if backbone.config.is_encoder_decoder or backbone.get_output_embeddings() is None:
        raise ValueError(
            f"the backbone is a {type(backbone).__name__} but must be a decoder with a language-model head: load it "
            "with AutoModelForCausalLM."
        )
    return backbone


def load_tokenizer(
    tokenizer: PreTrainedTokenizerBase | str | None, backbone: object, loading: dict[str, Any]
) -> PreTrainedTokenizerBase:
    """The tokenizer given, or the one of a repo id or path; by default the backbone's own."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        if isinstance(backbone, str):
            compare_given(tokenizer, *tokenizer_place(backbone, loading))
        return tokenizer
    source: Any = backbone if tokenizer is None else tokenizer
    if isinstance(source, PreTrainedModel):
        raise ValueError(
            "tokenizer is None but the prompts are made with it: pass tokenizer=AutoTokenizer.from_pretrained(...), "
            "or summarize_prompt_ids and predict_prompt_ids."
        )
    if tokenizer is None:
        source, keywords = tokenizer_place(source, loading)
    else:  # the rest says where the backbone is
        keywords = {"trust_remote_code": tokenizer_keywords(loading)["trust_remote_code"]}
    return read_tokenizer(source, keywords)


@torch.no_grad()
def add_token_rows(backbone: PreTrainedModel, new_ids: list[int], num_known: int) -> None:
    """Make room for `new_ids` and set their embedding and output rows to the mean over the first `num_known` rows.

    Never shrinks: many checkpoints have more rows than their tokenizer has tokens.
    """
    if not new_ids:
        return
    num_rows = backbone.config.vocab_size
    num_known = min(num_known, num_rows)
    if is_dispatched(backbone):
        raise ValueError(
            "the embeddings get rows for the prompts' tokens, which cannot be written while device_map has them on "
            "several devices or the disk: call from_backbone without device_map and save_pretrained, then "
            "from_pretrained(folder, device_map=...)."
        )
    if max(new_ids) >= num_rows:
        backbone.resize_token_embeddings(max(new_ids) + 1, mean_resizing=False)
    # Tied weights are written twice, to the same end: the known rows, and so their mean, stay as they are.
    for layer in (backbone.get_input_embeddings(), backbone.get_output_embeddings()):
        for name, rows in layer.named_parameters(recurse=False):  # weight (V, d), and some heads have a bias (V,)
            if name in ("weight", "bias"):
                rows[new_ids] = rows[:num_known].float().mean(0).to(rows.dtype)


def scale_logits(logits: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """What some families do to (..., V) logits behind the output embeddings: scale (Granite, Cohere), cap (Gemma)."""
    values = vars(config)
    if scale := values.get("logit_scale"):
        logits = logits * scale
    if divisor := values.get("logits_scaling"):
        logits = logits / divisor
    if cap := values.get("final_logit_softcapping"):
        logits = cap * torch.tanh(logits / cap)
    return logits


def logits_head(backbone: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """What maps (..., d) last hidden states to (..., V) logits as the backbone does: its head itself where it can."""
    head, config = backbone.get_output_embeddings(), backbone.config
    scaled = any(vars(config).get(name) for name in ("logit_scale", "logits_scaling", "final_logit_softcapping"))
    if not scaled and not is_dispatched(backbone):
        return head
    return lambda states: scale_logits(head(states).to(states.device), config)  # it may be on another device


@torch.no_grad()
def check_backbone(backbone: PreTrainedModel) -> None:
    """Prove on four tokens that the two-stream mask works and that the logits are read off as the backbone does.

    Raises:
        ValueError: when the backbone cannot take the mask, a summarize token reaches the predict stream, or plain
            causal logits are not the backbone's own (an encoder, or a logit scaling unknown here).
    """
    check_attention(backbone.config)
    if input_device(backbone).type == "meta":
        return
    name, was_training = backbone.config.model_type, backbone.training
    backbone.eval()
    try:
        # Two rows that differ in the summarize token alone: [passage, passage, summarize, predict].
        ids = torch.tensor([[3, 4, 5, 6], [3, 4, 7, 6]], device=input_device(backbone))
        streams = torch.tensor([[0, 0, SUMMARIZE, PREDICT]] * 2, device=ids.device)
        states = run_decoder(backbone, ids, torch.ones_like(ids).bool(), streams).last_hidden_state
        plain = backbone(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        ours = logits_head(backbone)(states)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"backbone type {name!r} does not take a 4-D attention mask and position ids: use one that does, such as "
            "Llama, Qwen, Mistral, Gemma, GPT-2 or OPT."
        ) from error
    finally:
        backbone.train(was_training)
    if not (states.isfinite().all() and plain.logits.isfinite().all()):
        raise ValueError(
            f"the backbone ({name!r}) gives NaN or infinity: its weights hold some (a run that diverged), or its "
            "dtype overflows. Take another checkpoint, or load it with dtype=torch.float32."
        )
    rounding = 1e-4 if backbone.dtype == torch.float32 else 0.05
    change = (states[0] - states[1]).abs().amax(-1)  # (4,): only the summarize token may differ
    if not change[[0, 1, 3]].max() < rounding * change[2]:
        raise ValueError(
            f"in backbone type {name!r} a summarize token reaches tokens that must not see it: use a causal decoder "
            "with softmax attention that takes a custom mask."
        )
    # The first three tokens stand as in plain causal attention.
    difference = (ours - plain.logits)[:, :3].abs().max()
    if not difference <= 10 * rounding * plain.logits.abs().max():
        raise ValueError(
            f"backbone type {name!r} is not causal by itself, or changes its logits behind the output embeddings in a "
            "way not known here: use a causal decoder, or add the change to scale_logits in backbone_llara.py."
        )


def run_decoder(
    backbone: PreTrainedModel,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    streams: torch.Tensor,
    position_ids: torch.Tensor | None = None,
    **outputs: bool,
) -> Any:
    """The backbone without its head over (B, L) ids under the two-stream mask; gives a transformers base output."""
    positions = two_stream_positions(mask, streams) if position_ids is None else position_ids
    attention_mask = two_stream_mask(backbone.config, mask, streams, positions, backbone.dtype)
    decoder: nn.Module = backbone.base_model
    states = decoder(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False, **outputs
    )
    states.last_hidden_state = states.last_hidden_state.to(input_ids.device)  # the last layer may be on another one
    return states


def save_backbone(model: Any, folder: Path, state_dict: dict[str, torch.Tensor] | None) -> None:
    """What `LlaraForPreTraining.save_backbone` does."""
    if any("lora_" in name for name, _ in model.named_parameters()) or model._hf_peft_config_loaded:
        raise ValueError(
            "the model carries adapters, which a plain checkpoint cannot hold: merge them first, with "
            "get_peft_model(...).merge_and_unload()."
        )
    if state_dict is None:
        check_at_hand(model.backbone)
    prefix = f"{model.base_model_prefix}."
    given = {name: value for name, value in (state_dict or {}).items() if name.startswith(prefix)}
    weights = {name.removeprefix(prefix): value for name, value in given.items()}
    with saved_whole(folder) as place:
        model.backbone.save_pretrained(place, state_dict=None if state_dict is None else weights)
        model._save_beside(place)
