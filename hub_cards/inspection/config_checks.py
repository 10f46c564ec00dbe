"""What a repo's JSON files ask for: code from elsewhere, files outside of the folder, more than the weights hold."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ..travelling.saving import is_folder
from .file_checks import leaves_folder
from .findings import REFUSED, WARNING, Finding
from .safetensors_headers import Shapes

DATA = ("tokenizer.json", "vocab.json", "added_tokens.json")  # may be large, and name nothing
OUR_MODULE = "sentence_encoder_biencoder.SentenceEncoder"  # its file is looked at as all code is
MAX_CONFIG = 32_000_000  # bytes
_CODE_KEYS = ("auto_map", "custom_pipelines")
_KERNEL_KEYS = ("attn_implementation", "experts_implementation")  # transformers loads one that is named as a repo
# What is imported by its name where it has a dot: sentence-transformers' activations, and a part of Megatron by peft.
_IMPORTED_KEYS = ("activation", "activation_fn", "activation_function", "megatron_core")
_IMPORTABLE = ("torch.nn.", "sentence_transformers.", "megatron.")
# Modules that an adapter's configuration may have peft import.
_ADAPTED = ("transformers", "transformers_modules", "modeling_biencoder", "modeling_llara", "modeling_srlm")


def is_config(name: str) -> bool:
    """Whether a file is JSON that says how to load something."""
    return name.endswith(".json") and PurePosixPath(name).name not in DATA


def check_config(name: str, config: Any) -> Iterator[Finding]:
    """What one JSON file names that is not in the repo."""
    for path, value in _walk(config):
        keys = [key for key in path if isinstance(key, str)]
        if any(key in _CODE_KEYS for key in keys) and isinstance(value, str):
            yield from _check_reference(name, ".".join(keys), value)
        elif any(key.endswith(_KERNEL_KEYS) for key in keys) and isinstance(value, str) and "/" in value:
            kernel = value.split("|")[-1].split(":")[0]
            message = f"{'.'.join(keys)} is {value!r}: the code of another repo, {kernel!r}, would run as a kernel."
            yield Finding(REFUSED, name, message)
        elif keys and keys[-1] in _IMPORTED_KEYS and isinstance(value, str) and _is_imported(keys[-1], value):
            yield Finding(REFUSED, name, f"{'.'.join(keys)} is {value!r}, a module that would be imported.")
        elif keys and isinstance(value, str) and _is_path(name, keys) and leaves_folder(value):
            yield Finding(REFUSED, name, f"{'.'.join(keys)} is {value!r}, which leaves the repo's folder.")
    last = PurePosixPath(name).name
    if last == "adapter_config.json" and isinstance(config, dict):
        yield from _check_adapter(name, config)
    if last == "modules.json" and isinstance(config, list):
        yield from _check_modules(name, config)


def _check_reference(name: str, key: str, value: str) -> Iterator[Finding]:
    if "--" in value:
        repo = value.split("--")[0]
        yield Finding(
            REFUSED, name, f"{key} is {value!r}: with trust_remote_code the code of another repo, {repo!r}, would run."
        )
    elif not re.fullmatch(r"\w+(\.\w+)?", value):
        yield Finding(REFUSED, name, f"{key} is {value!r}; it must be a module of this repo and a class in it.")


def _is_imported(key: str, value: str) -> bool:
    """Whether a module of no library that models need would be imported; a name without a dot is a function's."""
    return (key == "megatron_core" or "." in value) and not value.startswith(_IMPORTABLE)


def _is_path(name: str, keys: list[str]) -> bool:
    """Whether what stands under these keys is read as a file or folder beside `name`."""
    part = PurePosixPath(name).name == "modules.json" and keys[-1] == "path"
    return part or keys[-1].endswith("_file") or keys[0] == "weight_map"


def _check_adapter(name: str, config: dict[str, Any]) -> Iterator[Finding]:
    library = (config.get("auto_mapping") or {}).get("parent_library")
    if library is not None and str(library).split(".")[0] not in _ADAPTED:
        yield Finding(REFUSED, name, f"auto_mapping.parent_library is {library!r}, a module that peft would import.")
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        return
    if is_folder(base):
        message = f"loads on {base!r}, a folder of the machine that it is loaded on: look at what lies there, too."
    else:
        pinned = f" --revision {revision}" if revision else ""
        how = "at the commit that it names" if revision else "at no commit that it names, so as its main branch stands"
        message = f"loads on {base!r}, {how}: look at that one, too, with lookback pull --inspect {base}{pinned}"
    yield Finding(WARNING, name, message)


def _check_modules(name: str, modules: list[Any]) -> Iterator[Finding]:
    for module in modules:
        kind = str(module.get("type")) if isinstance(module, dict) else ""
        if not kind.startswith("sentence_transformers.") and kind != OUR_MODULE:
            message = f"names the module {kind!r}, which is none of sentence-transformers' and not Lookback's."
            yield Finding(REFUSED, name, message)


def check_index(name: str, index: Any, shards: Mapping[str, Shapes], sizes: Mapping[str, int]) -> Iterator[Finding]:
    """Whether the tensors that an index names are in the files that it names; `sizes` are those of the files."""
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict):
        yield Finding(REFUSED, name, "has no weight_map, so says nothing of where the weights are.")
        return
    folder = PurePosixPath(name).parent
    missing: dict[str, int] = {}
    for tensor, shard in weights.items():
        file = (folder / str(shard)).as_posix()
        if tensor not in shards.get(file, ()):
            missing[file] = missing.get(file, 0) + 1
    for file, count in missing.items():
        yield Finding(REFUSED, name, f"names {count} tensors of {file!r} that are not there.")
    metadata = index.get("metadata")
    declared = metadata.get("total_size") if isinstance(metadata, dict) else None
    files = {(folder / str(shard)).as_posix() for shard in weights.values()}
    held = sum(sizes.get(file, 0) for file in files)
    if isinstance(declared, int) and not missing and declared > held:
        yield Finding(REFUSED, name, f"declares {declared:,} bytes of weights, and the files hold {held:,}.")


def _walk(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """(keys that lead there, value) of all values that are neither dictionaries nor lists."""
    pairs: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield path, value
        return
    for key, part in pairs:
        yield from _walk(part, (*path, key))
