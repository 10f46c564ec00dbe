"""A self-retrieval LM from a causal LM and a retriever, which is taken apart so that it can live inside the repo."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .checks_srlm import shown
from .configuration_srlm import SelfRetrievalConfig
from .loading_srlm import backbone_keywords, load_backbone_weights, refuse_pickles, tokenizer_keywords
from .pooling_srlm import drop_pooler
from .retriever_srlm import SETTING_NAMES, TextEncoder

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM

_SENTENCE_TRANSFORMER_POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last_token"}


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
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(model, **tokenizer_keywords(model_kwargs))
        loaded = load_backbone_weights(AutoModelForCausalLM, model, model_kwargs)
        if not isinstance(retriever, str | Path):
            retriever_kwargs = {}  # a dtype that the language model alone is loaded in
        return from_components(model_class, loaded, tokenizer, retriever, {}, retriever_kwargs, settings)
    check_language_model(model, tokenizer)
    if isinstance(retriever, str | Path):
        retriever = load_retriever(str(retriever), **retriever_kwargs)
    nested = take_apart(retriever) if is_nestable(retriever) else None
    if isinstance(retriever, type):
        raise TypeError(f"retriever is the class {retriever.__name__} and must be an object of it: give one.")
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
    """Raise TypeError unless these are a transformers model (adapters may be around it) and a tokenizer or None."""
    if not isinstance(model, nn.Module) or not isinstance(getattr(model, "config", None), PreTrainedConfig):
        raise TypeError(f"model={shown(model)} must be a causal LM of transformers, or the Hub id or folder of one.")
    head = getattr(model, "get_output_embeddings", None)
    if head is not None and head() is None:
        raise ValueError(
            f"model is a {type(model).__name__}, without the head of a language model: load it with "
            "AutoModelForCausalLM."
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase | None):
        raise TypeError(
            f"tokenizer={tokenizer!r} must be a transformers tokenizer: use AutoTokenizer.from_pretrained."
        )


def _attach_retriever(model: "SelfRetrievalLM", retriever: TextEncoder | None, nested: tuple | None) -> None:
    if nested is None:
        model.retriever = retriever
        return
    drop_pooler(nested[0])
    model.retriever.backbone, model.retriever.tokenizer = nested[0], nested[1]
    model.retriever.requires_grad_(False)


def is_nestable(retriever: object) -> bool:
    """Whether the retriever is a BiEncoderModel or a SentenceTransformer: those are saved inside the repo."""
    return isinstance(retriever, nn.Module) and (_is_biencoder(retriever) or _is_sentence_transformer(retriever))


def take_apart(retriever: Any) -> tuple[nn.Module, PreTrainedTokenizerBase, dict[str, Any]]:
    """(backbone, tokenizer, SelfRetrievalConfig settings) of a BiEncoderModel or a SentenceTransformer.

    Raises ValueError for a SentenceTransformer with modules that the nested retriever does not have.
    """
    return _from_biencoder(retriever) if _is_biencoder(retriever) else _from_sentence_transformer(retriever)


def load_retriever(repo: str, **kwargs: Any) -> TextEncoder:
    """The bi-encoder of a Hub id or folder, `trust_remote_code`, `revision` and the rest passed on; no pickles."""
    refuse_pickles(kwargs)
    retriever = AutoModel.from_pretrained(repo, **backbone_keywords(kwargs))
    if not _is_biencoder(retriever):
        raise ValueError(
            f"{repo!r} is a {retriever.config.model_type!r} model, which says nothing of pooling and prompts. Give a "
            f"bi-encoder's repo, BiEncoderModel.from_backbone({repo!r}, pooling=...) or SentenceTransformer({repo!r})."
        )
    return retriever


def _is_biencoder(retriever: nn.Module) -> bool:
    config = getattr(retriever, "config", None)  # modules of other libraries may have none
    return isinstance(config, PreTrainedConfig) and config.model_type == "lookback_biencoder"


def _is_sentence_transformer(retriever: nn.Module) -> bool:
    return any(cls.__module__.startswith("sentence_transformers.") for cls in type(retriever).__mro__)


def _from_biencoder(retriever: Any) -> tuple[nn.Module, PreTrainedTokenizerBase, dict[str, Any]]:
    config = retriever.config
    settings = {name: getattr(config, name) for name in SETTING_NAMES if name != "prompts"}
    settings["prompts"] = config.prompts.get("default", {})
    return retriever.backbone, retriever.tokenizer, _nested(config.text_config, settings)


def _from_sentence_transformer(retriever: Any) -> tuple[nn.Module, PreTrainedTokenizerBase, dict[str, Any]]:
    names = [type(module).__name__ for module in retriever]
    mode = retriever[1].pooling_mode if names[1:2] == ["Pooling"] else None
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or (
        mode not in _SENTENCE_TRANSFORMER_POOLINGS
    ):
        raise ValueError(
            f"the SentenceTransformer has the modules {names} and the pooling {mode!r}; the repo can hold "
            f"Transformer, Pooling ({', '.join(_SENTENCE_TRANSFORMER_POOLINGS)}) and Normalize. "
            "Wrap it in an object with encode()."
        )
    transformer, prompts = retriever[0], retriever.prompts
    settings = {
        "pooling": _SENTENCE_TRANSFORMER_POOLINGS[mode],
        "normalize": "Normalize" in names,
        "max_length": transformer.max_seq_length or 512,
        "prompts": {"query": prompts.get("query", ""), "passage": prompts.get("document", "")},
    }
    backbone = transformer.auto_model
    return backbone, transformer.tokenizer, _nested(backbone.config, settings)


def _nested(backbone_config: PreTrainedConfig, settings: dict[str, Any]) -> dict[str, Any]:
    return {"retriever_config": backbone_config, "retriever_settings": settings}
