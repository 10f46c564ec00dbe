"""A model of our families without its weights, from its configuration alone: for what can be said before it loads."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from hub_cards.travelling.backbones import base_keywords, tokenizer_place
from hub_cards.travelling.vocabulary import check_rows, load_tokenizer
from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.published_biencoder import published_parts
from modeling_biencoder.sentence_transformers_biencoder import longest_input, read_sentence_transformer, within
from modeling_llara import LlaraConfig, LlaraForPreTraining
from modeling_llara.backbone_llara import load_tokenizer as load_llara_tokenizer
from modeling_llara.prompts_llara import biencoder_keywords
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM
from modeling_srlm.tokenizers_srlm import RETRIEVER_TOKENIZER_FOLDER

from .components import check_kept, default_method
from .kind import check_plain, look, other_repo, place_of

logger = logging.get_logger(__name__)


def build_weightless(
    family: Any,
    source: str | Path,
    config: Any,
    keywords: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedModel | None:
    """The model that a Trainer makes of `source`, its parameters on the device "meta"; no weights are read.

    Args:
        family: `BiEncoderModel`, `LlaraForPreTraining` or `SelfRetrievalLM`.
        source: folder or Hub id, of the family or of a backbone. config: what `kind.config_of` finds there.
        keywords: `model_kwargs` of the Trainer.

    Returns None where the code of a model needs weights to be built. Raises ValueError or TypeError for settings that
    do not fit the model.
    """
    fields = {name: value for name, value in keywords.items() if name in _names(family)}
    if config.model_type == family.config_class.model_type:
        whole = family.config_class.from_pretrained(source, **place_of(keywords), **fields)
        if family is SelfRetrievalLM:
            check_kept(whole, fields)
        return _on_meta(family, whole)
    check_plain(source, config.model_type, family.config_class.model_type)
    if family is LlaraForPreTraining:
        return _llara(source, config, keywords, fields, tokenizer)
    whole = (biencoder_config if family is BiEncoderModel else _srlm_config)(source, config, keywords, fields)
    return None if whole is None else _on_meta(family, whole)


def _names(family: Any) -> set[str]:
    if family is SelfRetrievalLM:
        return SelfRetrievalConfig.__annotations__.keys() - SelfRetrievalConfig.sub_configs.keys()
    return {name for name in family.config_class.keywords() if name != "text_config"}


def _on_meta(build: Any, *args: Any) -> PreTrainedModel | None:
    try:
        with torch.device("meta"):
            return build(*args)
    except (NotImplementedError, RuntimeError) as error:  # the code of a repo that computes while it is built
        logger.info(f"No model without weights could be built ({error}); what does not fit it is said later.")
        return None


def check_words(source: str | Path, config: Any, keywords: dict[str, Any], tokenizer: Any = None) -> Any:
    """The tokenizer of a model, None where it is looked at as it is loaded: in a GGUF file, of sentence-transformers.

    Raises ValueError for a model without one, or with one that has ids beyond the embeddings.

    Args:
        source: folder or Hub id, whose configuration is `config`.
        keywords: of loading, `base` among them for an adapter.
        tokenizer: the one that takes the place of the model's own.
    """
    loading = {**place_of(keywords), **base_keywords(keywords)}
    if "gguf_file" in loading:
        return None
    if not config.model_type.startswith("lookback_") and read_sentence_transformer(source, loading) is not None:
        return None
    place, found = tokenizer_place(source, loading)
    words = load_tokenizer(place, found) if tokenizer is None else tokenizer
    check_rows(words, config.get_text_config().vocab_size)
    nested = getattr(config, "retriever_config", None)
    if nested is not None and place == str(source):
        inside = load_tokenizer(place, found, RETRIEVER_TOKENIZER_FOLDER)
        check_rows(inside, nested.get_text_config().vocab_size, "the retriever's embeddings")
    return words


def biencoder_config(source: Any, config: Any, keywords: dict[str, Any], fields: dict[str, Any]) -> BiEncoderConfig:
    """The configuration of the bi-encoder that `source` is, or is made of; arguments as in `build_weightless`.

    Args:
        fields: of `BiEncoderConfig`, for a new one.
    """
    if config.model_type == BiEncoderConfig.model_type:
        return config
    if config.model_type == LlaraConfig.model_type:
        return BiEncoderConfig(text_config=config.text_config, **{**biencoder_keywords(config), **fields})
    place = {name: value for name, value in keywords.items() if name not in (*fields, "preset")}
    parts = published_parts(source, place, keywords.get("preset"), fields)
    whole = BiEncoderConfig(text_config=config, **{**(parts.fields if parts else {}), **fields})
    if parts is not None and "max_length" not in fields:
        inside = tokenizer_place(source, within(place, parts.folder)) if parts.max_length is None else None
        whole.max_length = longest_input(parts, inside and load_tokenizer(*inside), whole.max_positions)
    return whole


def _srlm_config(source: Any, config: Any, keywords: dict[str, Any], fields: dict[str, Any]) -> Any:
    fields = {"retrieval_method": default_method(keywords), **fields}
    if isinstance(retriever := keywords.get("retriever"), str | Path):
        place = {"revision": keywords.get("retriever_revision"), **other_repo(place_of(keywords))}
        try:
            nested = look(retriever, **place).config
        except (OSError, ValueError):  # said in the words of what loads it
            return None
        if nested.model_type == BiEncoderConfig.model_type:
            nested = nested.text_config
        fields["retriever_config"] = nested
    whole = SelfRetrievalConfig(text_config=config, **fields)
    check_kept(whole, fields)
    return whole


def _llara(
    source: Any, config: Any, keywords: dict[str, Any], fields: dict[str, Any], tokenizer: Any
) -> PreTrainedModel | None:
    LlaraConfig(**fields)  # wrong values are said before the tokenizer is looked for
    own_prompts = {"summarize_prompt_ids", "predict_prompt_ids"} <= fields.keys()
    if tokenizer is None and not own_prompts:
        tokenizer = load_llara_tokenizer(None, str(source), {**place_of(keywords), **base_keywords(keywords)})
    decoder = _on_meta(AutoModelForCausalLM.from_config, config)
    if decoder is None:
        return None
    return _on_meta(lambda: LlaraForPreTraining.from_backbone(decoder, tokenizer, **fields))
