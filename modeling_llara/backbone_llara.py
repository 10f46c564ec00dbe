"""What LLaRA asks of a backbone: loading it, its tokenizer, new token rows, and saving it alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .adapting_llara import refuse_adapted
from .backbones_llara import load_backbone_weights, refuse_ours, tokenizer_place
from .configuration_llara import LlaraConfig
from .loading_llara import split_keywords, tokenizer_keywords
from .masking_llara import check_implementation
from .placement_llara import check_at_hand, is_dispatched
from .prompts_llara import COUNTS, add_prompts
from .proof_llara import check_backbone
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
        return _checked(load_backbone_weights(AutoModelForCausalLM, backbone, loading))
    if loading:
        raise ValueError(
            f"{sorted(loading)} are for loading a backbone, but the backbone is a loaded {type(backbone).__name__}: "
            "pass them to its from_pretrained, or pass a repo id or path here."
        )
    refuse_adapted(backbone)
    return _checked(backbone)


def _checked(backbone: PreTrainedModel) -> PreTrainedModel:
    refuse_ours(type(backbone).__name__, backbone.config.model_type)
    if backbone.config.get_text_config() is not backbone.config:
        raise ValueError(
            f"the backbone is a {type(backbone).__name__}, whose language model is a part of it "
            f"({backbone.config.get_text_config().model_type!r}): give that part alone as a causal LM, saved with its "
            "tokenizer in a folder of its own."
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
    writes = model.should_save_on_this_rank(True)
    with saved_whole(folder, writes) as place, _counts_in(model.backbone.config, model.config):
        model.backbone.save_pretrained(place, state_dict=None if state_dict is None else weights)
        model._save_beside(place)


@contextmanager
def _counts_in(backbone: PreTrainedConfig, config: LlaraConfig) -> Iterator[None]:
    """How many special tokens the prompts have, in the backbone's configuration while it is saved.

    Plain transformers keeps what it does not know. Prompts of one's own are in no checkpoint of a backbone alone.
    """
    ours = config.summarize_prompt is not None and config.predict_prompt is not None
    counts = (config.num_summary_tokens, config.num_predict_tokens) if ours else ()
    before = {name: vars(backbone).pop(name) for name in COUNTS if name in vars(backbone)}
    vars(backbone).update(zip(COUNTS, counts, strict=False))
    try:
        yield
    finally:
        for name in COUNTS:
            vars(backbone).pop(name, None)
        vars(backbone).update(before)
