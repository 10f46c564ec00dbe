"""Putting a self-retrieval LM together from a causal LM and a retriever."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .components_srlm import is_nestable, load_retriever, take_apart
from .configuration_srlm import SelfRetrievalConfig
from .loading_srlm import HUB_KEYWORDS, commit_of
from .retriever_srlm import TextEncoder, without_pooler

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
        tokenizer = load_tokenizer(model, model_kwargs) if tokenizer is None else tokenizer
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
    # use_safetensors=False in model_kwargs is the caller's word that a pickle of theirs may be read
    loading = {"use_safetensors": True, **model_kwargs}
    model = AutoModelForCausalLM.from_pretrained(source, **loading)
    model.config._commit_hash = commit_of(source, loading)  # for the card, which names its base
    return model


def load_tokenizer(source: str | Path, model_kwargs: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer beside the causal LM of a Hub id or folder."""
    hub_kwargs = {name: value for name, value in model_kwargs.items() if name in HUB_KEYWORDS}
    # Without a word on trust, transformers would ask at the terminal.
    trust = bool(model_kwargs.get("trust_remote_code"))
    return AutoTokenizer.from_pretrained(source, trust_remote_code=trust, **hub_kwargs)


def _attach_retriever(model: "SelfRetrievalLM", retriever: TextEncoder | None, nested: tuple | None) -> None:
    if nested is None:
        model.retriever = retriever
        return
    model.retriever.backbone, model.retriever.tokenizer = without_pooler(nested[0]), nested[1]
    model.retriever.requires_grad_(False)
