"""A self-retrieval LM from a causal LM and a retriever, which is taken apart so that it can live inside the repo."""

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .backbones_srlm import load_backbone_weights, tokenizer_place
from .checks_srlm import shown
from .configuration_srlm import SelfRetrievalConfig
from .loading_srlm import backbone_keywords, holds_adapter_alone, hub_keywords, read_json, refuse_pickles
from .merging_srlm import merge_layers
from .planning_srlm import proven_states
from .pooling_srlm import dense_layers, drop_pooler
from .published_srlm import check_tokens, published_parts
from .retriever_srlm import SETTING_NAMES, TextEncoder
from .sentence_modules_srlm import SentenceTransformerParts
from .sentence_transformers_srlm import (
    dense_weights,
    is_sentence_transformer,
    longest_input,
    lower_cased,
    states_of_dense,
    unwrapped,
    within,
)

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM


TASK = "lrlm"  # of LLM-Embedder: which chunks of the past help with this one


class TakenApart(NamedTuple):
    """A retriever as the repo holds it."""

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dense: dict[str, Any]  # the state of its dense layers
    settings: dict[str, Any]  # of `RetrieverSettings`


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
            place, keywords = tokenizer_place(model, model_kwargs)
            tokenizer = AutoTokenizer.from_pretrained(place, **keywords)
        loaded = load_backbone_weights(AutoModelForCausalLM, model, model_kwargs)
        if not isinstance(retriever, str | Path):
            retriever_kwargs = {}  # a dtype that the language model alone is loaded in
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
    built._tokenizer = tokenizer
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


def take_apart(retriever: Any) -> TakenApart | None:
    """The parts of a BiEncoderModel or a SentenceTransformer, which are saved inside the repo; None of another object.

    Raises ValueError for a SentenceTransformer with modules that the nested retriever does not have.
    """
    retriever = unwrapped(retriever)
    if is_sentence_transformer(retriever):
        parts: Any = published_parts(retriever, {})
        return _of_parts(parts, retriever[0].auto_model, retriever.tokenizer, states_of_dense(retriever))
    if not _is_biencoder(retriever):
        return None
    dense = {} if retriever.dense is None else retriever.dense.state_dict()
    return TakenApart(retriever.backbone, retriever.tokenizer, dense, _settings(vars(retriever.config)))


def _settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `RetrieverSettings` among a bi-encoder's; of its prompts that of the task, or where none is named."""
    settings = {name: fields[name] for name in SETTING_NAMES if fields.get(name) is not None}
    prompts = fields["prompts"]
    return {**settings, "prompts": prompts.get(TASK, prompts.get("default", {}))}


def load_retriever(repo: str, preset: str | None = None, **kwargs: Any) -> Any:
    """The bi-encoder, sentence-transformers model or published model of a Hub id or folder.

    `preset` is a name of `PRESETS`, by default that of the repo; `revision` and the rest are passed on.
    """
    refuse_pickles(kwargs)
    if parts := published_parts(repo, kwargs, preset):
        return _load_parts(repo, parts, kwargs)
    retriever = _load_adapted(repo, kwargs) or AutoModel.from_pretrained(repo, **backbone_keywords(kwargs))
    if not _is_biencoder(retriever):
        raise ValueError(
            f"{repo!r} is a {retriever.config.model_type!r} model, which says nothing of pooling and prompts. Give a "
            f"bi-encoder's repo, that of a sentence-transformers model, or BiEncoderModel.from_backbone({repo!r}, "
            "pooling=...)."
        )
    return retriever


def _load_adapted(repo: str, kwargs: dict[str, Any]) -> Any:
    """A bi-encoder of ours that lies as an adapter alone, merged into the base that it names; None of all else.

    It takes the code of the bi-encoder's family: None as well where that is not imported, and the error of loading it
    as a whole model says what to do.
    """
    place, loading = hub_keywords(kwargs), backbone_keywords(kwargs)
    kind = (read_json(repo, "config.json", kwargs) or {}).get("model_type")
    if kind != "lookback_biencoder" or not holds_adapter_alone(repo, place):
        return None
    config = AutoConfig.from_pretrained(repo, **place, trust_remote_code=loading["trust_remote_code"])
    family: Any = sys.modules.get(f"{type(config).__module__.rpartition('.')[0]}.bases_biencoder")
    if family is None:
        return None
    settings = {name: value for name, value in loading.items() if name not in place}
    retriever = family.load_whole(repo, place, settings)
    merge_layers(retriever)
    return retriever.eval()


def _load_parts(repo: str, parts: SentenceTransformerParts, kwargs: dict[str, Any]) -> TakenApart:
    dense, loading = dense_weights(repo, parts, kwargs), within(kwargs, parts.folder)
    backbone = load_backbone_weights(AutoModel, repo, loading)
    place, keywords = tokenizer_place(repo, loading)
    tokenizer = AutoTokenizer.from_pretrained(place, **keywords)
    check_tokens(parts, tokenizer)
    if _is_biencoder(backbone):
        raise ValueError(f"{repo!r} is a bi-encoder of ours, which knows how it embeds: leave preset out.")
    return _of_parts(parts, backbone, lower_cased(tokenizer) if parts.lower_case else tokenizer, dense)


def _of_parts(parts: SentenceTransformerParts, backbone: Any, tokenizer: Any, dense: dict[str, Any]) -> TakenApart:
    positions = getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
    fields = {**parts.fields, "max_length": longest_input(parts, tokenizer, positions)}
    return TakenApart(backbone, tokenizer, dense, _settings(fields))


def _is_biencoder(retriever: Any) -> bool:
    config = getattr(retriever, "config", None)  # modules of other libraries may have none
    return isinstance(config, PreTrainedConfig) and config.model_type == "lookback_biencoder"
