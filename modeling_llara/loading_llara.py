# Copied from hub_cards/travelling/loading.py by "make copies": edit that one.
"""Loading: keywords that say where a repo lies, safetensors alone, the commit that was loaded, damaged files."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, CONFIG_NAME, cached_file

# Keywords of from_pretrained that say where a repo is: what finds the model finds its tokenizer.
HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def refuse_pickles(keywords: dict[str, Any]) -> None:
    """Let `from_pretrained(**keywords)` read safetensors alone; ValueError where it is told to read others."""
    if keywords.get("use_safetensors") is False:
        raise ValueError("use_safetensors=False would read a pickle, which can run any code: leave the keyword out.")
    keywords["use_safetensors"] = True


def refuse_pickled_adapter(source: str, keywords: dict[str, Any]) -> None:
    # transformers reads adapter_model.bin where there are no safetensors, whatever use_safetensors says (5.23).
    given = {**keywords, **(keywords.get("adapter_kwargs") or {})}
    given |= getattr(keywords.get("load_config"), "download_kwargs", None) or {}
    hub = {name: given[name] for name in HUB_KEYWORDS if name in given}
    if hub.get("revision") is not None:
        hub["revision"] = str(hub["revision"])  # without the commit of the base's repo that transformers ties to it

    if cached_file(source, ADAPTER_SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **hub) is None:
        raise ValueError(
            f"{source!r} holds no {ADAPTER_SAFE_WEIGHTS_NAME}; another file of weights is a pickle, which can run any "
            "code when it is loaded, and is not read. Ask its owner to save it as safetensors, as peft does by itself."
        )


def damaged_files(source: str | os.PathLike, keywords: dict[str, Any]) -> list[str]:
    """Names of weights, in a folder or the Hub's cache, that cannot be read or are not what their checksum says."""
    config = _cached_config(source, keywords)
    return (
        [path.name for path in sorted(Path(config).parent.glob("*.safetensors")) if _is_damaged(path)]
        if config
        else []
    )


def _cached_config(source: str | os.PathLike, keywords: dict[str, Any]) -> str | None:
    """The file in a folder or in the Hub's cache, without asking the Hub; None where there is none."""
    known = {**keywords, "local_files_only": True, "force_download": False}
    try:
        return cached_file(str(source), CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **known)
    except (OSError, ValueError):  # not in the cache, or no name of a repo
        return None


def _is_damaged(path: Path) -> bool:
    content = path.resolve()
    if len(content.name) == 64 and content.parent.name == "blobs":  # the Hub's cache: the name is the checksum
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != content.name
    try:
        with safe_open(path, "pt"):
            return False
    except (SafetensorError, OSError):
        return True


def commit_of(source: str | os.PathLike, keywords: dict[str, Any]) -> str | None:
    """The commit that a repo was just loaded at, by the Hub's cache; None for a folder. (transformers forgets it.)"""
    hub = {name: keywords[name] for name in HUB_KEYWORDS if name in keywords}
    file = None if os.path.isdir(source) else _cached_config(source, hub)
    found = re.search(r"/snapshots/([0-9a-f]{40})/", Path(file).as_posix()) if file else None
    return found[1] if found else None
