"""A self-retrieval LM from a causal LM and a retriever."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .backbones_srlm import load_backbone_weights, refuse_ours, tokenizer_place
from .checks_srlm import shown
from .configuration_srlm import SelfRetrievalConfig
from .halves_srlm import refuse_halves
from .pooling_srlm import dense_layers, drop_pooler
from .proof_srlm import proven_states
from .retriever_srlm import TextEncoder
from .retrievers_srlm import TakenApart, load_retriever, take_apart
from .vocabulary_srlm import compare_given, load_tokenizer

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM


def from_components(
    model_class: type["SelfRetrievalLM"],
    model: PreTrainedModel | str,
    tokenizer: PreTrainedTokenizerBase | None,
    retriever: TextEncoder | str | None,
    model_kwargs: dict[str, Any] | None,
    retriever_kwargs: dict[str, Any] | None,
    settings: dict[str, Any],
) -> "SelfRetrievalLM":
    """What `SelfRetrievalLM.from_components` returns."""
    model_kwargs = _of_what_loads("model_kwargs", model_kwargs, model)
    retriever_kwargs = _of_what_loads("retriever_kwargs", retriever_kwargs, retriever)
    model_kwargs, retriever_kwargs, settings = _with_dtype(model, retriever, model_kwargs, retriever_kwargs, settings)
    if isinstance(model, str | Path):
        refuse_halves(model, model_kwargs)
        place, keywords = tokenizer_place(model, model_kwargs)
        if tokenizer is None:
            tokenizer = load_tokenizer(place, keywords)
        else:
            compare_given(tokenizer, place, keywords)
        if isinstance(retriever, str | Path):  # the smaller of the two: what is wrong with it is said first
            retriever = load_retriever(str(retriever), **retriever_kwargs)
        retriever_kwargs = {}
        loaded = load_backbone_weights(AutoModelForCausalLM, model, model_kwargs)
        return from_components(model_class, loaded, tokenizer, retriever, {}, retriever_kwargs, settings)
    check_language_model(model, tokenizer)
    if isinstance(retriever, str | Path):
        retriever = load_retriever(str(retriever), **retriever_kwargs)
    if isinstance(retriever, type):
        raise TypeError(f"retriever is the class {retriever.__name__} and must be an object of it: give one.")
    nested = retriever if isinstance(retriever, TakenApart) else take_apart(retriever)
    if nested is None and retriever is not None and not callable(getattr(retriever, "encode", None)):
        raise TypeError(f"retriever is a {type(retriever).__name__} without encode(list[str]) -> (n, d) embeddings.")
    retrieving: dict[str, Any] = (
        {"retriever_config": nested.backbone.config, "retriever_settings": nested.settings} if nested else {}
    )
    config = SelfRetrievalConfig(text_config=model.config, **retrieving, **settings)
    with torch.device("meta"):
        built = model_class(config)
    built.language_model = model
    if tokenizer is not None:
        built.tokenizer = tokenizer
    if model.generation_config is not None:
        built.generation_config = copy.deepcopy(model.generation_config)
    _attach_retriever(built, retriever, nested)
    proven_states(built)
    return built.train(model.training)


def _of_what_loads(name: str, given: dict[str, Any] | None, part: object) -> dict[str, Any]:
    """The keywords for loading a part; TypeError for what is no dict, ValueError where the part is loaded already."""
    if given is not None and not isinstance(given, dict):
        raise TypeError(
            f"{name}={shown(given)} must be a dict of from_pretrained's keywords, such as {{'revision': ...}}."
        )
    if given and not isinstance(part, str | Path):
        raise ValueError(
            f"{name}={given} is for loading, and there is nothing to load: give the Hub id or folder of it, or leave "
            f"{name} out."
        )
    return given or {}


def _with_dtype(
    model: object, retriever: object, model_kwargs: dict, retriever_kwargs: dict, settings: dict
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(keywords of the model, of the retriever, settings): a `dtype` among the settings is for all that is loaded."""
    dtype = {name: settings[name] for name in ("dtype", "torch_dtype") if settings.get(name) is not None}
    settings = {name: value for name, value in settings.items() if name not in ("dtype", "torch_dtype")}
    if dtype and not isinstance(model, str | Path) and not isinstance(retriever, str | Path):
        name, value = next(iter(dtype.items()))
        raise ValueError(
            f"{name}={value} is for components to load, and these are loaded: use .to(dtype) on them, or give their "
            "Hub ids or folders."
        )
    return {**dtype, **model_kwargs}, {**dtype, **retriever_kwargs}, settings


def check_language_model(model: object, tokenizer: object) -> None:
    """Raise TypeError unless these are a transformers model (adapters may be around it) and a tokenizer or None.

    And ValueError for one without a head, and for an encoder.
    """
    if not isinstance(model, nn.Module) or not isinstance(getattr(model, "config", None), PreTrainedConfig):
        raise TypeError(f"model={shown(model)} must be a causal LM of transformers, or the Hub id or folder of one.")
    head = getattr(model, "get_output_embeddings", None)
    if head is not None and head() is None:
        raise ValueError(
            f"model is a {type(model).__name__}, without the head of a language model: load it with "
            "AutoModelForCausalLM."
        )
    config: Any = model.config
    refuse_ours(type(model).__name__, config.model_type)
    kind = config.get_text_config().model_type
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise ValueError(  # transformers puts a random head on one that has none
            f"model is an encoder ({kind}), whose tokens see those behind them: give a causal LM, and this one as "
            "retriever=."
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase | None):
        raise TypeError(
            f"tokenizer={tokenizer!r} must be a transformers tokenizer: use AutoTokenizer.from_pretrained."
        )


def _attach_retriever(model: "SelfRetrievalLM", retriever: Any, nested: TakenApart | None) -> None:
    if nested is None:
        model.retriever = retriever
        return
    drop_pooler(nested.backbone)
    model.retriever.backbone, model.retriever.tokenizer = nested.backbone, nested.tokenizer
    if nested.dense:
        model.retriever.dense = dense_layers(nested.settings["dense"])
        model.retriever.dense.load_state_dict(nested.dense)
        first = next(nested.backbone.parameters())
        model.retriever.dense.to(first.device, first.dtype)
    model.retriever.requires_grad_(False)
