# Copied from hub_cards/travelling/backbones.py by "make copies": edit that one.
"""A backbone from whatever it lies in: safetensors, an adapter on its base, a GGUF file; always with plain weights."""

import os
from importlib.util import find_spec
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)

from .adapting_llara import misfits, own_names
from .fitting_llara import CLASSES
from .halves_llara import damage, refuse_halves
from .loading_llara import (
    backbone_keywords,
    commit_of,
    find_file,
    hub_keywords,
    read_json,
    read_object,
    refuse_foreign_shards,
    refuse_pickled_adapter,
    tokenizer_keywords,
)
from .merging_llara import merge_layers

OF_BASE = ("base", "base_revision")  # keywords for the base of an adapter
_OPTIONS = "--base; of a --retriever --retriever_base"
_OF_PEFT = "base_model.model."  # before every name in an adapter's file


def load_backbone_weights(auto_class: Any, source: str | os.PathLike, keywords: dict[str, Any]) -> PreTrainedModel:
    """`auto_class.from_pretrained(source)` as `backbone_keywords` has it; its configuration knows its commit.

    An adapter is merged into its base, the one that it names or `base`; the weights of a GGUF file (`gguf_file`) are
    unpacked. Both are models like any other afterwards. An adapter on quantised weights stays beside them.

    Raises ValueError for an adapter that does not fit or whose base cannot be read, for a GGUF file that cannot, and
    for one of our models as a causal LM; OSError for half a model.
    """
    loading = backbone_keywords(keywords)
    if loading.get("gguf_file"):
        return _unpacked(auto_class, source, loading)
    if (adapter := adapter_alone(source, loading)) is not None:
        return _on_its_base(auto_class, str(source), adapter, loading)
    if names := _take_base(loading):
        raise ValueError(
            f"{names[0]} is for an adapter, and {str(source)!r} is a model with weights of its own: leave it out."
        )
    if loading["use_safetensors"]:
        refuse_foreign_shards(source, loading)
    refuse_halves(source, loading)
    if auto_class is AutoModelForCausalLM:
        refuse_ours(str(source), (read_json(source, CONFIG_NAME, loading) or {}).get("model_type"))
    try:
        model = auto_class.from_pretrained(source, **loading)
    except Exception as error:
        if (damaged := damage(source, loading, error)) is not None:  # of a repo: a folder was looked at
            raise damaged from error
        raise
    model.config._commit_hash = commit_of(source, loading)  # for an adapter or a card, which names its base
    return model


def refuse_ours(name: str, model_type: object) -> None:
    """ValueError for a model of ours where a plain causal LM is asked for."""
    if (family := CLASSES.get(str(model_type))) is not None:
        raise ValueError(
            f"{name!r} is of type {model_type!r}, no plain causal LM: load it with {family}.from_pretrained(...), or "
            "give the plain backbone that it was made of."
        )


def tokenizer_place(source: str | os.PathLike, keywords: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The folder or repo with a backbone's tokenizer, and the keywords to load it: of an adapter mostly its base's."""
    kept = tokenizer_keywords(keywords)
    adapter = None if keywords.get("gguf_file") else adapter_alone(source, kept)
    if adapter is None or find_file(source, "tokenizer_config.json", kept) is not None:
        return str(source), kept
    base, loading = base_place(str(source), adapter, keywords)
    try:
        refuse_halves(base, loading)
        if not any(find_file(base, name, loading) for name in (CONFIG_NAME, ADAPTER_CONFIG_NAME)):
            raise OSError(f"it has no {CONFIG_NAME}, or is not there")
    except OSError as error:
        raise base_not_there(str(source), base, error) from error
    return tokenizer_place(base, loading)


def base_keywords(keywords: dict[str, Any]) -> dict[str, Any]:
    """Those of the keywords that say where an adapter's base is, and are given."""
    return {name: keywords[name] for name in OF_BASE if keywords.get(name) is not None}


def _take_base(loading: dict[str, Any]) -> list[str]:
    """The names of `base_keywords` in `loading`, which are taken out of it."""
    names = list(base_keywords(loading))
    for name in OF_BASE:
        loading.pop(name, None)
    return names


def adapter_alone(source: str | os.PathLike, keywords: dict[str, Any]) -> dict[str, Any] | None:
    """adapter_config.json of a folder or repo that holds an adapter without the weights of its base; else None."""
    adapter = read_object(source, ADAPTER_CONFIG_NAME, keywords)
    if adapter is None or any(
        find_file(source, name, keywords) for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    ):
        return None
    return adapter


def base_place(source: str, adapter: dict[str, Any], keywords: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The base of an adapter, and the keywords to load it: `base`, or what the adapter names, at its commit.

    `base_revision` is another branch, tag or commit of it.
    """
    named = adapter.get("base_model_name_or_path")
    base = keywords.get("base") or named
    if not base:
        raise ValueError(
            f"the adapter {source!r} does not name the model that it was made for: give it as base=... ({_OPTIONS})."
        )
    own = (*OF_BASE, "revision", "subfolder")
    loading = {name: value for name, value in keywords.items() if name not in own}
    if keywords.get("base_revision"):
        loading["revision"] = keywords["base_revision"]
    elif base == named and adapter.get("revision"):
        loading["revision"] = adapter["revision"]
    if loading.get("use_safetensors") is False:  # the caller's word on the adapter's pickle: its base may have none
        loading["use_safetensors"] = None
    return str(base), loading


def base_not_there(source: str, base: str, error: Exception) -> ValueError:
    """The error for an adapter whose base cannot be read, with what to do."""
    lost = os.path.isabs(base) or base.count("/") > 1
    said = "there is no such folder" if lost and not os.path.exists(base) else str(error).strip().partition("\n")[0]
    return ValueError(
        f"the adapter {source!r} was made for {base!r}, which cannot be read here ({said}): give the folder or Hub id "
        f"of that model as base=... ({_OPTIONS}), or once and for all: lookback merge --model {source} --base ... "
        "--output ..."
    )


def check_gguf(source: str | os.PathLike, gguf_file: str) -> None:
    """Raise ValueError or ImportError unless the GGUF file can be read here."""
    if not str(gguf_file).endswith(".gguf"):
        raise ValueError(
            f"gguf_file={str(gguf_file)!r} must be the name of a .gguf file in the folder or repo: give it."
        )
    if os.path.isdir(source) and not os.path.isfile(os.path.join(source, gguf_file)):
        there = sorted(name for name in os.listdir(source) if name.endswith(".gguf"))
        raise ValueError(
            f"gguf_file={str(gguf_file)!r} is no file in {str(source)!r}: there {'is' if there else 'is none, but'} "
            f"{', '.join(there) or 'perhaps a model without gguf_file'}."
        )
    if find_spec("gguf") is None:
        raise ImportError(f"gguf_file={str(gguf_file)!r} needs the package gguf: pip install gguf")


def _unpacked(auto_class: Any, source: str | os.PathLike, loading: dict[str, Any]) -> PreTrainedModel:
    """The model of a GGUF file with float weights, which can train and be saved."""
    check_gguf(source, loading["gguf_file"])
    if loading.get("quantization_config") is not None:
        raise ValueError(
            "gguf_file and quantization_config exclude each other: save the model unpacked, and load that."
        )
    if names := _take_base(loading):
        raise ValueError(f"{names[0]} is for an adapter, and gguf_file names a whole model: leave one of them out.")
    try:  # on some GPUs the weights would stay packed
        from transformers import GgufConfig
    except ImportError:  # in its older versions they never did
        pass
    else:
        loading["quantization_config"] = GgufConfig(dequantize=True)
    model = auto_class.from_pretrained(source, **loading)
    for owner in (model, model.config):
        for name in ("hf_quantizer", "quantization_method", "quantization_config", "_is_quantized"):
            vars(owner).pop(name, None)
    model.is_quantized = False
    return model


def _on_its_base(auto_class: Any, source: str, adapter: dict[str, Any], loading: dict[str, Any]) -> PreTrainedModel:
    base, base_loading = base_place(source, adapter, loading)
    headed = auto_class is AutoModel and _made_for_head(source, loading)
    try:
        model: Any = load_backbone_weights(AutoModelForCausalLM if headed else auto_class, base, base_loading)
    except OSError as error:
        raise base_not_there(source, base, error) from error
    part = model if headed or _made_for_head(source, loading) else model.base_model
    _put_on(part, source, loading)
    if not getattr(model, "is_quantized", False):
        merge_layers(part)
        model.requires_grad_(True)
    model = model.base_model if headed else model
    for config in (model.config, part.config):  # what these weights are: an adapter trained on them needs this one
        config.name_or_path, config._commit_hash = source, commit_of(source, loading)
    return model


def _put_on(model: PreTrainedModel, source: str, loading: dict[str, Any]) -> None:
    """Load the adapter, from safetensors where the caller has no other word."""
    hub = hub_keywords(loading)
    if loading["use_safetensors"]:
        refuse_pickled_adapter(source, hub)
    with own_names(model):
        result = model.load_adapter(source, adapter_kwargs=hub, use_safetensors=loading["use_safetensors"])
    if strange := misfits(model, "default", result):
        raise ValueError(
            f"the adapter {source!r} does not fit its base: {strange[0]!r} is on one side alone. Give the base that "
            "it was trained on as base=... (a DoRA is read by load_adapted of Lookback)."
        )


def _made_for_head(source: str, loading: dict[str, Any]) -> bool:
    """Whether an adapter was trained on a model with a head, under whose name its base's layers lie."""
    names = [name.removeprefix(_OF_PEFT) for name in _names(source, loading)]
    return bool(names) and all(name.startswith(("model.", "transformer.", "lm_head", "gpt_neox.")) for name in names)


def _names(source: str, loading: dict[str, Any]) -> list[str]:
    """Names of an adapter's weights."""
    if (file := find_file(source, ADAPTER_SAFE_WEIGHTS_NAME, loading)) is not None:
        with safe_open(file, "pt") as opened:
            return list(opened.keys())
    if loading["use_safetensors"] or (file := find_file(source, ADAPTER_WEIGHTS_NAME, loading)) is None:
        return []
    return list(torch.load(file, map_location="meta", weights_only=True))
