"""Putting a self-retrieval LM together from a causal LM and a retriever."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .components_srlm import is_nestable, load_retriever, take_apart
from .configuration_srlm import SelfRetrievalConfig
from .loading_srlm import backbone_keywords, commit_of, tokenizer_keywords
from .pooling_srlm import drop_pooler
from .retriever_srlm import TextEncoder

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM


def build(
    model_class: type["SelfRetrievalLM"],
    model: PreTrainedModel | str,
    tokenizer: PreTrainedTokenizerBase | None,
    retriever: TextEncoder | str | None,
    model_kwargs: dict[str, Any],
    retriever_kwargs: dict[str, Any],
    settings: dict[str, Any],
) -> "SelfRetrievalLM":
    """What `SelfRetrievalLM.from_components` returns."""
    if isinstance(model, str | Path):
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(model, **tokenizer_keywords(model_kwargs))
        model = load_language_model(model, model_kwargs)
    if isinstance(retriever, str | Path):
        retriever = load_retriever(str(retriever), **retriever_kwargs)
    nested = take_apart(retriever) if is_nestable(retriever) else None
    if nested is None and retriever is not None and not callable(getattr(retriever, "encode", None)):
        raise TypeError(f"retriever is a {type(retriever).__name__} without encode(list[str]) -> (n, d) embeddings.")
    config = SelfRetrievalConfig(text_config=model.config, **(nested[2] if nested else {}), **settings)
    with torch.device("meta"):
        built = model_class(config)
    built.language_model = model
    built._tokenizer = tokenizer
    if model.generation_config is not None:
        built.generation_config = copy.deepcopy(model.generation_config)
    _attach_retriever(built, retriever, nested)
    return built.train(model.training)


def load_language_model(source: str | Path, model_kwargs: dict[str, Any]) -> PreTrainedModel:
    """The causal LM of a Hub id or folder; its configuration knows its commit."""
    loading = backbone_keywords(model_kwargs)
    model = AutoModelForCausalLM.from_pretrained(source, **loading)
    model.config._commit_hash = commit_of(source, loading)  # for the card, which names its base
    return model


def _attach_retriever(model: "SelfRetrievalLM", retriever: TextEncoder | None, nested: tuple | None) -> None:
    if nested is None:
        model.retriever = retriever
        return
    drop_pooler(nested[0])
    model.retriever.backbone, model.retriever.tokenizer = nested[0], nested[1]
    model.retriever.requires_grad_(False)
