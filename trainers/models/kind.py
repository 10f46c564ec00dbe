"""What kind of model a folder, a repo or an object holds; a folder or repo is looked at once, then built from."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
from peft import PeftConfig
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG_NAME
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import cached_file

from hub_cards.travelling.backbones import (
    OF_BASE,
    adapter_alone,
    base_keywords,
    base_not_there,
    base_place,
    check_gguf,
)
from hub_cards.travelling.halves import HalfModelError, check_config
from hub_cards.travelling.loading import HUB_KEYWORDS, commit_of
from modeling_biencoder.sentence_transformers_biencoder import read_sentence_transformer

ModelSource = str | Path | PreTrainedModel
LateModel = FunctionType | MethodType | partial  # without arguments: gives a model that is loaded only then
# Keywords that say where a model lies, and whether its repo's code may run.
PLACE = (*HUB_KEYWORDS, "gguf_file", "trust_remote_code")
_OF_ONE_REPO = ("gguf_file", "revision", "subfolder")  # the others hold for an adapter's base and for a retriever, too


@dataclass(frozen=True)
class Found:
    """What a folder or repo holds, asked once.

    Attributes:
        source: the folder or Hub id.
        config: config.json; of an adapter without one, that of its base.
        loading: `revision`, `token`, `cache_dir`, `trust_remote_code` and the like, for every step that follows. The
            revision of a repo is the commit that was looked at: a branch may move on before the weights are read.
        adapter: adapter_config.json, None where a complete model lies.
        base: what the adapter was trained on, or is put on.
    """

    source: str
    config: Any
    loading: dict[str, Any]
    adapter: PeftConfig | None = None
    base: "Found | None" = None

    @property
    def model_type(self) -> str:
        """Of config.json, or of the adapter's base."""
        return self.config.model_type


class NotAnAdapterError(ValueError):
    """A base is given for what is no adapter."""


def look(
    source: str | Path,
    base: str | Path | None = None,
    base_revision: str | None = None,
    base_loading: dict[str, Any] | None = None,
    **loading: Any,
) -> Found:
    """What a folder or Hub repo holds.

    Args:
        base: of an adapter, the folder or Hub id of its base; default the one that it names, at the commit it names.
        base_revision: branch, tag or commit of the base's repo.
        base_loading: other keywords of that repo alone.
        loading: those of `PLACE`.

    Raises:
        OSError, ValueError: where there is no model, of a kind that transformers knows.
        ValueError: for an adapter that names no base, where none is given.
    """
    source, place = str(source), {"trust_remote_code": False, **place_of(loading)}
    _refuse_file(source)
    try:
        config, place = _read_config(source, place)
    except (OSError, ValueError):
        if (adapter := find_adapter(source, place)) is None:
            raise
        config = None  # as peft saves an adapter
    else:
        adapter = None if "gguf_file" in place else find_adapter(source, place)
    if adapter is None:
        for name, value in zip(OF_BASE, (base, base_revision), strict=True):
            if value is None:
                continue
            raise NotAnAdapterError(
                f"{name}={str(value)!r} (--{name}) is for an adapter, and {source!r} is a model of its own: "
                "leave it out."
            )
        return Found(source, config, place)
    of_base = {**other_repo(place), **place_of(base_loading or {}), **place_of({"revision": base_revision})}
    on = _look_at_base(source, adapter, base, of_base)
    return Found(source, on.config if config is None else config, place, adapter, on)


def _read_config(source: str, place: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The configuration, and the keywords with the commit that it was read at."""
    config = _config(source, place)
    commit = commit_of(source, place)
    return config, {**place, "revision": commit} if commit else place


def _refuse_file(source: str) -> None:
    if source.endswith(".gguf"):
        folder, name = os.path.split(source)
        raise ValueError(f"{source!r} is one file: give its folder, {folder!r}, and gguf_file={name!r} (--gguf_file).")


def _config(source: str, place: dict[str, Any]) -> Any:
    if "gguf_file" in place:
        check_gguf(source, place["gguf_file"])
    try:
        if "gguf_file" not in place:
            check_config(source, place)
        return AutoConfig.from_pretrained(source, **place)
    except HalfModelError:
        raise
    except OSError as error:
        error.add_note(f"No model could be read from {source!r}: give a folder that is there, or user/name.")
        raise


def _look_at_base(source: str, adapter: PeftConfig, base: str | Path | None, place: dict[str, Any]) -> Found:
    named = adapter.base_model_name_or_path
    if base is None and not named:
        raise ValueError(
            f"The adapter {source!r} does not name the model that it was trained on (one in memory?): pass base, a "
            "folder or Hub id (--base, or --model where there is an --adapter)."
        )
    if base is None or str(base) == named:
        place = {**place_of({"revision": adapter.revision}), **place}
    base = str(base or named)
    try:
        return look(base, **place)
    except OSError as error:
        raise base_not_there(source, base, error) from error


def find_adapter(source: str | Path, place: dict[str, Any]) -> PeftConfig | None:
    """The configuration of the adapter in a folder or repo, None where there is none."""
    file = find_file(source, ADAPTER_CONFIG_NAME, place)
    return None if file is None else PeftConfig.from_pretrained(os.path.dirname(file))


def find_file(source: str | Path, name: str, place: dict[str, Any], needed: bool = False) -> str | None:
    """Where a file of a folder or repo lies here; None, or an OSError where it is `needed`, if there is none."""
    hub = {key: value for key, value in place.items() if key in HUB_KEYWORDS}
    return cached_file(str(source), name, _raise_exceptions_for_missing_entries=needed, **hub)


def check_plain(source: Any, kind: str, wanted: str) -> Any:
    """`source`, of the `model_type` `kind`; ValueError where it is one of ours, and no backbone for a `wanted` one."""
    on_llara = (kind, wanted) == ("lookback_llara", "lookback_biencoder")  # brings its prompts and pooling
    if not kind.startswith("lookback_") or on_llara:
        return source
    name = repr(str(source)) if isinstance(source, str | Path) else f"the {type(source).__name__}"
    raise ValueError(
        f"{name} is of type {kind!r} and must be a {wanted} here, or a plain backbone: give one; the backbone inside "
        "(.backbone, of a self-retrieval LM .language_model) is one, saved with save_pretrained beside its tokenizer."
    )


def refuse_preset(what: str, keywords: dict[str, Any]) -> None:
    """ValueError for a preset of a model that is ours."""
    if (preset := keywords.get("preset")) is not None:
        raise ValueError(
            f"preset={preset!r} is for a published model, and {what!r} is one of ours, which knows how it embeds: "
            "leave it out."
        )


def place_of(keywords: dict[str, Any]) -> dict[str, Any]:
    """Those of the keywords that are of `PLACE`, and given."""
    return {name: keywords[name] for name in PLACE if keywords.get(name) is not None}


def weights_of(keywords: dict[str, Any]) -> dict[str, Any]:
    """Those of the keywords that say what the weights become, and are given."""
    return {name: keywords[name] for name in ("dtype", "quantization_config") if keywords.get(name) is not None}


def of_backbone(found: Found, loading: dict[str, Any]) -> dict[str, Any]:
    """The keywords for a backbone that was found; the base of a plain one's adapter has commits of its own."""
    return found.loading if found.adapter is None else {**place_of(loading), **base_keywords(loading)}


def other_repo(place: dict[str, Any]) -> dict[str, Any]:
    """The keywords for another repo, which has commits of its own."""
    return {name: value for name, value in place.items() if name not in _OF_ONE_REPO}


def model_type(model: ModelSource, keywords: dict[str, Any]) -> str:
    """The `model_type` of a model, or of the one in a folder or repo; `keywords` may say which revision."""
    return config_of(model, keywords).model_type


def config_of(model: ModelSource, keywords: dict[str, Any]) -> Any:
    """The configuration of a model, or of the one in a folder or repo; of an adapter alone that of its base."""
    if isinstance(model, PreTrainedModel):
        return model.config
    source, place = str(model), place_of(keywords)
    _refuse_file(source)
    try:
        return _config(source, place)
    except (OSError, ValueError):
        if "gguf_file" in place:
            raise
        if (adapter := adapter_alone(source, place)) is None:
            parts = read_sentence_transformer(source, place)  # which may have the backbone in a folder of its own
            if parts is None or not parts.folder:
                raise
            return _config(source, {**place, "subfolder": parts.folder})
    base, place = base_place(source, adapter, {**place, **base_keywords(keywords)})
    try:
        return config_of(base, place)
    except OSError as error:
        raise base_not_there(source, base, error) from error


def check_dtype(dtype: Any) -> None:
    """ValueError for a name that is none of torch's types for weights; None is that of the repo, and `auto` too."""
    if dtype is None or dtype == "auto" or isinstance(dtype, torch.dtype | dict):
        return
    found = getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype={dtype!r} is no type of weights: take float32, bfloat16 or float16.")
