# Copied from hub_cards/travelling/halves.py by "make copies": edit that one.
"""Half a model: what a folder lacks, or holds in pieces, is named with the fix before anything of it is read."""

import json
import os
from pathlib import Path
from typing import Any

from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .loading_llara import damaged_files, is_damaged

_POINTER = b"version https://git-lfs"  # the first line of what Git LFS puts in a file's place
_ANEW = "fetch the model whole, or save it there again."


def refuse_halves(source: str | os.PathLike, keywords: dict[str, Any]) -> None:
    """`check_config` and `check_weights` of what `from_pretrained(source, **keywords)` will read.

    Of an adapter alone, which is no model, there is another word (`refuse_adapter_alone`).
    """
    folder = _folder(source, keywords)
    if folder is None or keywords.get("gguf_file") or (folder / ADAPTER_CONFIG_NAME).is_file():
        return
    if keywords.get("config") is None:
        check_config(source, keywords)
    check_weights(source, keywords)


def check_config(source: str | os.PathLike, keywords: dict[str, Any]) -> None:
    """Raise OSError where a folder has no config.json, or one that is no JSON; a repo of the Hub is not looked at."""
    folder = _folder(source, keywords)
    if folder is None:
        return
    if not (folder / CONFIG_NAME).is_file():
        inside = sorted(place.parent for place in folder.glob(f"*/{CONFIG_NAME}") if _holds_weights(place.parent))
        fix = f"did you mean {str(inside[-1])!r}?" if inside else _ANEW
        raise OSError(f"{str(folder)!r} has no {CONFIG_NAME}, which says what kind of model it is: {fix}")
    check_json(folder / CONFIG_NAME)


def check_weights(source: str | os.PathLike, keywords: dict[str, Any]) -> None:
    """Raise OSError where a folder has no safetensors, not all that its index names, or one that is cut off.

    A repo of the Hub is not looked at, nor what is read with `variant` or, as the caller says, from a pickle.
    """
    folder = _folder(source, keywords)
    if folder is None or keywords.get("variant") or keywords.get("use_safetensors", True) is not True:
        return
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file() or not index.is_file():
        names, asked = [SAFE_WEIGHTS_NAME], ""
    else:
        names, asked = sorted(set(check_json(index).get("weight_map", {}).values())), f", which its {index.name} names"
    for name in names:
        if not (folder / name).is_file():
            raise OSError(f"{str(folder)!r} has no file named {name}{asked}: {_instead(folder)}")
        if is_damaged(folder / name):
            raise OSError(f"{name} of {str(folder)!r} {_what(folder / name)}")


def check_json(file: Path) -> Any:
    """What a file holds; OSError where it is no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        said = _what(file) if _is_pointer(file) else f"is no JSON ({error}): fetch it again."
        raise OSError(f"{file.name} of {str(file.parent)!r} {said}") from error


def damage(source: str | os.PathLike, keywords: dict[str, Any]) -> OSError | None:
    """The error for weights, in a folder or the Hub's cache, that are damaged; None where none are."""
    if not (damaged := damaged_files(source, keywords)):
        return None
    return OSError(
        f"{str(source)!r} cannot be loaded, as {', '.join(damaged)} is truncated, or not what its checksum says: "
        "fetch it again with force_download=True, or save the model again."
    )


def _folder(source: str | os.PathLike, keywords: dict[str, Any]) -> Path | None:
    return Path(source, keywords.get("subfolder") or "") if os.path.isdir(source) else None


def _holds_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))


def _instead(folder: Path) -> str:
    """What to do where weights are not there."""
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if not pickles:
        return _ANEW
    return (
        f"{pickles[0]} is a pickle, which can run any code when it is loaded, and is not read: ask its owner to save "
        "it as safetensors, or, of a backbone that you trust, give use_safetensors=False in Python and save it anew."
    )


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_POINTER)) == _POINTER


def _what(file: Path) -> str:
    """What is the matter with a file that cannot be read, and what to do."""
    if _is_pointer(file):
        return "is a pointer of Git LFS and not the file: run `git lfs pull` in that folder, or fetch it again."
    return f"is truncated, or no safetensors ({file.stat().st_size:,} bytes): fetch it again, or save the model again."
