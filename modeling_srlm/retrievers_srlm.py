"""A retriever in whatever form it comes, taken apart so that it can live inside the repo of a self-retrieval LM."""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .backbones_srlm import base_keywords, load_backbone_weights, tokenizer_place
from .halves_srlm import refuse_halves
from .loading_srlm import backbone_keywords, holds_adapter_alone, hub_keywords, read_json, refuse_pickles
from .merging_srlm import merge_layers
from .published_srlm import check_tokens, published_parts
from .retriever_srlm import SETTING_NAMES
from .sentence_modules_srlm import SentenceTransformerParts
from .sentence_transformers_srlm import (
    dense_weights,
    is_sentence_transformer,
    longest_input,
    lower_cased,
    say_two_tokenizers,
    states_of_dense,
    unwrapped,
    within,
)
from .vocabulary_srlm import load_tokenizer

TASK = "lrlm"  # of LLM-Embedder: which chunks of the past help with this one


class TakenApart(NamedTuple):
    """A retriever as the repo holds it."""

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dense: dict[str, Any]  # the state of its dense layers
    settings: dict[str, Any]  # of `RetrieverSettings`


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
    parts = published_parts(repo, kwargs, preset)
    refuse_halves(repo, within(kwargs, parts.folder) if parts else kwargs)
    if parts:
        return _load_parts(repo, parts, kwargs)
    retriever = _load_adapted(repo, kwargs) or _load_whole(repo, kwargs)
    if not _is_biencoder(retriever):
        raise _no_retriever(repo, retriever.config.model_type)
    return retriever


def _no_retriever(repo: str, kind: str) -> ValueError:
    return ValueError(
        f"{repo!r} is a {kind!r} model, which says nothing of pooling and prompts. Give a bi-encoder's repo, that of "
        f"a sentence-transformers model, or BiEncoderModel.from_backbone({repo!r}, pooling=...)."
    )


def _load_whole(repo: str, kwargs: dict[str, Any]) -> Any:
    config = read_json(repo, "config.json", kwargs) or {}
    kind = config.get("model_type", "lookback_biencoder")
    if kind != "lookback_biencoder" and "auto_map" not in config:  # of code of its own there is another word first
        raise _no_retriever(repo, kind)
    if named := base_keywords(kwargs):
        raise ValueError(
            f"{next(iter(named))} (--retriever_base) is for an adapter, and {repo!r} is none: leave it out."
        )
    return AutoModel.from_pretrained(repo, **backbone_keywords(kwargs))


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
    tokenizer = load_tokenizer(*tokenizer_place(repo, loading))
    say_two_tokenizers(tokenizer, repo, parts, loading)
    backbone = load_backbone_weights(AutoModel, repo, loading)
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
