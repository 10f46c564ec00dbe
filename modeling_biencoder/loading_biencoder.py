# Copied from hub_cards/travelling/loading.py by "make copies": edit that one.
"""Loading: which keyword is whose, safetensors alone, the commit that was loaded, damaged files."""

import json
import os
import re
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
)

from .checks_biencoder import check_keywords, check_layers, shown

# Keywords of from_pretrained that say where a repo is: what finds the model finds its tokenizer.
HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# All that the from_pretrained of a model takes; what else is given to build one must be a field of its configuration.
LOADING_KEYWORDS = (
    *HUB_KEYWORDS, "attn_implementation", "base", "base_revision", "code_revision", "device_map", "dtype",
    "experts_implementation", "gguf_file", "key_mapping", "low_cpu_mem_usage", "max_memory", "offload_buffers",
    "offload_folder", "quantization_config", "torch_dtype", "tp_plan", "trust_remote_code", "use_safetensors",
    "variant",
)  # fmt: skip
# What transformers itself puts into a configuration, or takes out of its keywords, beside a family's own fields.
CONFIG_KEYWORDS = (
    *(field.name for field in fields(PreTrainedConfig)),
    "_attn_implementation", "_attn_implementation_internal", "_commit_hash", "_experts_implementation_internal",
    "_name_or_path", "attn_implementation", "auto_map", "experts_implementation", "lookback_format", "model_type",
    "name_or_path", "num_labels", "output_attentions", "per_layer_config", "quantization_config",
    "tie_word_embeddings", "torch_dtype", "use_cache",
)  # fmt: skip


def part_config(what: str, given: Any) -> Any:
    """A part's configuration, of its dictionary too; None stays None.

    Raises TypeError or ValueError for something else, and for more layers than any model has.
    """
    if given is None:
        return None
    named = isinstance(given, dict) and isinstance(given.get("model_type"), str)
    if not named and not isinstance(given, PreTrainedConfig):
        raise TypeError(
            f"{what}={shown(given)} must be a backbone's configuration, or its dict with a model_type: "
            "AutoConfig.from_pretrained(...) gives one."
        )
    try:
        config = AutoConfig.for_model(**given) if isinstance(given, dict) else given
    except Exception as error:  # of huggingface_hub, too, where a field has another type
        raise ValueError(f"{what} makes no configuration, and must be what one saved: {error}") from error
    check_layers(what, config)
    return config


def split_keywords(
    keywords: dict[str, Any], config_names: Collection[str], owner: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of the configuration, loading keywords); ValueError for a keyword that is neither."""
    check_keywords(keywords, [*config_names, *LOADING_KEYWORDS], owner)
    config = {name: value for name, value in keywords.items() if name in config_names}
    return config, {name: value for name, value in keywords.items() if name not in config_names}


def hub_keywords(keywords: dict[str, Any]) -> dict[str, Any]:
    """Those of the keywords that say where a repo is."""
    return {name: keywords[name] for name in HUB_KEYWORDS if name in keywords}


def tokenizer_keywords(keywords: dict[str, Any]) -> dict[str, Any]:
    """Those for the tokenizer beside a model; its repo's code runs only where the caller said so.

    (Without a word on trust, transformers would ask at the terminal.) A GGUF file holds the tokenizer, too.
    """
    inside = {"gguf_file": keywords["gguf_file"]} if keywords.get("gguf_file") else {}
    return {**hub_keywords(keywords), **inside, "trust_remote_code": bool(keywords.get("trust_remote_code"))}


def backbone_keywords(keywords: dict[str, Any]) -> dict[str, Any]:
    """Those for a backbone: safetensors alone, and no code of its repo, where the caller has no word on it.

    `use_safetensors=False` is the caller's word that a pickle of theirs may be read.
    """
    return {"use_safetensors": True, "trust_remote_code": False, **keywords}


def refuse_pickles(keywords: dict[str, Any]) -> None:
    """Let `from_pretrained(**keywords)` read safetensors alone; ValueError where it is told to read others."""
    if keywords.get("use_safetensors") is False:
        raise ValueError("use_safetensors=False would read a pickle, which can run any code: leave the keyword out.")
    keywords["use_safetensors"] = True


def refuse_foreign_shards(source: str | os.PathLike, keywords: dict[str, Any]) -> None:
    """ValueError where an index in a folder names weights that are no safetensors, or lie outside of the folder.

    transformers would read the one with torch.load and follow the other (5.23).
    """
    folder = Path(source, keywords.get("subfolder") or "")
    variant = f".{keywords['variant']}" if keywords.get("variant") else ""
    whole = (folder / f"model{variant}.safetensors").is_file()
    for index in folder.glob("*.safetensors*.index*.json"):
        try:
            names = shard_names(json.loads(index.read_text(encoding="utf-8-sig")), str(index))
        except ValueError:  # no JSON: `refuse_halves` names it
            continue
        except OSError:
            if whole or index.name != f"{SAFE_WEIGHTS_INDEX_NAME.removesuffix('.json')}{variant}.json":
                continue  # it will not be read
            raise
        for name in names:
            check_shard(f"{index} names", name)


def shard_names(index: Any, what: str, fix: str = "fetch it again, or save the model again.") -> list[str]:
    """The files that an index of weights names; OSError where it is none, or none that transformers reads (5.23)."""
    weights, about = (index.get(name) if isinstance(index, dict) else None for name in ("weight_map", "metadata"))
    named = weights.values() if isinstance(weights, dict) else ()
    if not named or not all(isinstance(name, str) for name in named) or not isinstance(about, dict):
        raise OSError(
            f"{what} is no index of weights, whose weight_map says in which file each lies, beside metadata: {fix}"
        )
    return sorted(set(named))


def check_shard(what: str, name: str) -> None:
    """ValueError unless `name` is that of a safetensors file, without a way out of its folder."""
    if not name.endswith(".safetensors") or name != PurePosixPath(name).name or "\\" in name:
        raise ValueError(
            f"{what} {name!r} as weights, and these must be safetensors in the same folder: do not load it, and ask "
            "its owner to save it with save_pretrained."
        )


def refuse_pickled_adapter(source: str, keywords: dict[str, Any]) -> None:
    # transformers reads adapter_model.bin where there are no safetensors, whatever use_safetensors says (5.23).
    given = {**keywords, **(keywords.get("adapter_kwargs") or {})}
    given |= getattr(keywords.get("load_config"), "download_kwargs", None) or {}
    hub = hub_keywords(given)
    if hub.get("revision") is not None:
        hub["revision"] = str(hub["revision"])  # without the commit of the base's repo that transformers ties to it

    if cached_file(source, ADAPTER_SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **hub) is None:
        raise ValueError(
            f"{source!r} holds no {ADAPTER_SAFE_WEIGHTS_NAME}; another file of weights is a pickle, which can run any "
            "code when it is loaded, and is not read. Ask its owner to save it as safetensors, as peft does by itself."
        )


def not_shared(model: PreTrainedModel, missing: Collection[str]) -> list[str]:
    """The missing names without those whose weights came under another name (trained rows of a head that is tied)."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    loaded = {id(value) for name, value in parameters.items() if name not in missing}
    return [name for name in missing if id(parameters.get(name)) not in loaded]


def holds_adapter_alone(source: str | os.PathLike, keywords: dict[str, Any]) -> bool:
    """Whether a repo or folder, found by these keywords, holds an adapter without the weights of a model."""
    names = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, ADAPTER_CONFIG_NAME)
    here = [
        name
        for name in names
        if cached_file(str(source), name, _raise_exceptions_for_missing_entries=False, **keywords)
    ]
    return here == [ADAPTER_CONFIG_NAME]


def refuse_adapter_alone(source: str | os.PathLike | None, keywords: dict[str, Any], error: Exception) -> None:
    """OSError, from `error`, that says how to load it where an adapter lies without the weights of a model."""
    try:
        alone = source is not None and holds_adapter_alone(source, keywords)
    except (OSError, ValueError):  # no such repo: the first error says so
        return
    if alone:
        base = _named_base(str(source), keywords)
        raise OSError(
            f"{str(source)!r} holds an adapter alone, without the weights of its base{base}: "
            "load the base and then base.load_adapter, as its card (README.md) shows, or load_adapted of Lookback (to "
            "train it further with is_trainable=True, or as --adapter of a command, whose --model is the base)."
        ) from error


def _named_base(source: str | os.PathLike, keywords: dict[str, Any]) -> str:
    named = (read_object(source, ADAPTER_CONFIG_NAME, keywords) or {}).get("base_model_name_or_path")
    return f" {named!r}" if named else ""


def find_file(source: str | os.PathLike, name: str, keywords: dict[str, Any]) -> str | None:
    """Where a file of a folder or repo lies here, None where there is none; a repo's is fetched.

    Raises OSError where there is no such repo, or no way to it.
    """
    return cached_file(str(source), name, _raise_exceptions_for_missing_entries=False, **hub_keywords(keywords))


def read_json(source: str | os.PathLike, name: str, keywords: dict[str, Any]) -> Any:
    """What a file of a folder or repo holds, None where there is none; ValueError where it is no JSON."""
    file = find_file(source, name, keywords)
    if file is None:
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{name} of {str(source)!r} is no JSON ({error}): fetch it again.") from error


def read_object(source: str | os.PathLike, name: str, keywords: dict[str, Any]) -> dict[str, Any] | None:
    """`read_json`, and ValueError where the file holds something else than an object."""
    found = read_json(source, name, keywords)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{name} of {str(source)!r} {no_object(found)}: fetch it again.")
    return found


def no_object(found: Any) -> str:
    """How a message says what stands in a file of settings."""
    return f"holds {shown(found)}, and must hold an object in braces"


def cached_config(source: str | os.PathLike, keywords: dict[str, Any]) -> str | None:
    """The file in a folder or in the Hub's cache, without asking the Hub; None where there is none."""
    return in_cache(source, CONFIG_NAME, keywords)


def in_cache(source: str | os.PathLike, name: str, keywords: dict[str, Any]) -> str | None:
    """The same of any file."""
    try:
        return find_file(source, name, {**keywords, "local_files_only": True, "force_download": False})
    except (OSError, ValueError):  # not in the cache, or no name of a repo
        return None


def commit_of(source: str | os.PathLike, keywords: dict[str, Any]) -> str | None:
    """The commit that a repo was just loaded at, by the Hub's cache; None for a folder. (transformers forgets it.)"""
    names = () if os.path.isdir(source) else (CONFIG_NAME, ADAPTER_CONFIG_NAME)
    file = next(filter(None, (in_cache(source, name, keywords) for name in names)), None)
    found = re.search(r"/snapshots/([0-9a-f]{40})/", Path(file).as_posix()) if file else None
    return found[1] if found else None
