# Copied from hub_cards/travelling/halves.py by "make copies": edit that one.
"""Half a model: what a folder lacks, or holds in pieces, is named with the fix before anything of it is read."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_NAME,
    has_file,
)

from .loading_srlm import cached_config, find_file, in_cache, no_object, read_json, shard_names

_POINTER = b"version https://git-lfs"  # the first line of what Git LFS puts in a file's place
_ANEW = "fetch the model whole, or save it there again."
_OF_OWNER = "ask its owner to save it there whole, or name another revision."
_LACKS = "does not appear to have a file named"  # transformers', of a repo
_PICKLE = (
    "is a pickle, which can run any code when it is loaded, and is not read: ask its owner to save it as safetensors, "
    "or, of a backbone that you trust, give use_safetensors=False in Python and save it anew."
)


class HalfModelError(OSError):
    """Of a model of which a part lacks, or is in pieces."""


def refuse_halves(source: str | os.PathLike, keywords: dict[str, Any]) -> None:
    """`check_config` and `check_weights` of what `from_pretrained(source, **keywords)` will read.

    Of an adapter alone, which is no model, there is another word (`refuse_adapter_alone`); of the weights of a repo
    when they have come (`damage`).
    """
    folder = _folder(source, keywords)
    if keywords.get("gguf_file") or (folder is not None and (folder / ADAPTER_CONFIG_NAME).is_file()):
        return
    if keywords.get("config") is None:
        check_config(source, keywords)
    check_weights(source, keywords)


def check_config(source: str | os.PathLike, keywords: dict[str, Any]) -> None:
    """Raise OSError where a folder or repo has no config.json, or one that is no JSON.

    Without one transformers would make a model of a family's defaults, with as many weights as a large one has.
    """
    folder = _folder(source, keywords)
    if folder is None:
        if _is_whole(cached_config(source, keywords)):  # what transformers looks at first; the Hub is not asked twice
            return
        file = find_file(source, CONFIG_NAME, keywords)
        if file is not None:
            check_json(Path(file), str(source))
        elif find_file(source, ADAPTER_CONFIG_NAME, keywords) is None:
            raise HalfModelError(
                f"{str(source)!r} has no {CONFIG_NAME}, which says what kind of model it is: {_OF_OWNER}"
            )
        return
    if not (folder / CONFIG_NAME).is_file():
        inside = sorted(place.parent for place in folder.glob(f"*/{CONFIG_NAME}") if _holds_weights(place.parent))
        fix = f"did you mean {str(inside[-1])!r}?" if inside else _ANEW
        raise HalfModelError(f"{str(folder)!r} has no {CONFIG_NAME}, which says what kind of model it is: {fix}")
    check_json(folder / CONFIG_NAME)


def check_weights(source: str | os.PathLike, keywords: dict[str, Any]) -> None:
    """Raise OSError where a folder has no safetensors, not all that its index names, or one that is cut off.

    A repo of the Hub is not looked at, nor what is read, as the caller says, from a pickle; of a `variant` its index.
    """
    folder = _folder(source, keywords)
    if folder is None or keywords.get("use_safetensors", True) is not True:
        return
    index = folder / _names_of_weights(keywords)[1]
    if keywords.get("variant"):
        if index.is_file():
            check_json(index)
        return
    if (folder / SAFE_WEIGHTS_NAME).is_file() or not index.is_file():
        names, asked = [SAFE_WEIGHTS_NAME], ""
    else:
        names, asked = shard_names(check_json(index), str(index)), f", which its {index.name} names"
    for name in names:
        if not (folder / name).is_file():
            raise HalfModelError(f"{str(folder)!r} has no file named {name}{asked}: {_instead(folder)}")
        if is_damaged(folder / name):
            raise HalfModelError(f"{name} of {str(folder)!r} {_what(folder / name)}")


def check_json(file: Path, repo: str | None = None) -> Any:
    """What a file holds; OSError where it is no JSON object, which names its folder, or the repo that it is of."""
    fix, what = "fetch it again." if repo is None else _OF_OWNER, f"{file.name} of {repo or str(file.parent)!r}"
    try:
        if (text := file.read_text(encoding="utf-8")).startswith("\ufeff"):  # transformers' readers fail at it (5.23)
            raise HalfModelError(f"{what} begins with a byte order mark: write it as UTF-8 without one.")
        found = json.loads(text)
    except ValueError as error:
        said = _what(file) if _is_pointer(file) else f"is no JSON ({error}): {fix}"
        raise HalfModelError(f"{what} {said}") from error
    if not isinstance(found, dict):
        raise HalfModelError(f"{what} {no_object(found)}: {fix}")
    return found


def _is_whole(config: str | None) -> bool:
    try:
        return config is not None and check_json(Path(config)) is not None
    except HalfModelError:
        return False


def damage(source: str | os.PathLike, keywords: dict[str, Any], error: Exception) -> OSError | None:
    """The error for weights, in a folder or the Hub's cache, that are damaged or not there; None where none are.

    Args:
        error: what came of loading them.
    """
    if not isinstance(error, OSError | RuntimeError | SafetensorError):
        return _strange_index(source, keywords)
    config = cached_config(source, keywords)
    weights = sorted(Path(config).parent.glob("*.safetensors")) if config else []
    if not (damaged := [path for path in weights if is_damaged(path)]):
        return _lacking(source, keywords, error)
    if not os.path.isdir(source) and all(_is_as_sent(path) for path in damaged):
        said = (
            "is a pointer of Git LFS and not the file"
            if _is_pointer(damaged[0])
            else "is truncated, or no safetensors"
        )
        return HalfModelError(f"{damaged[0].name} of {str(source)!r} {said}, in the repo itself: {_OF_OWNER}")
    return HalfModelError(
        f"{str(source)!r} cannot be loaded, as {', '.join(path.name for path in damaged)} is truncated, or not what "
        "its checksum says: fetch it again with force_download=True, or save the model again."
    )


def _strange_index(source: str | os.PathLike, keywords: dict[str, Any]) -> OSError | None:
    """The error for an index of weights that transformers has read just now, of another shape; None for any other."""
    whole, name = _names_of_weights(keywords)
    file = in_cache(source, name, keywords)
    if file is None or in_cache(source, whole, keywords) is not None:
        return None
    try:
        shard_names(check_json(Path(file), str(source)), f"{name} of {str(source)!r}", _OF_OWNER)
    except OSError as found:
        return found
    return None


def is_damaged(path: Path) -> bool:
    """Whether a file of weights cannot be read, or in the Hub's cache is not what its checksum says."""
    if _is_as_sent(path) is False:
        return True
    try:
        with safe_open(path, "pt"):
            return False
    except (SafetensorError, OSError):
        return True


def _is_as_sent(path: Path) -> bool | None:
    """Whether a file in the Hub's cache is what its checksum says; None for any other file."""
    content = path.resolve()
    if len(content.name) != 64 or content.parent.name != "blobs":  # the Hub's cache: the name is the checksum
        return None
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == content.name


def _lacking(source: str | os.PathLike, keywords: dict[str, Any], error: Exception) -> OSError | None:
    """The error for a repo without safetensors, or without one that its index names; None for other troubles."""
    if os.path.isdir(source) or keywords.get("variant") or find_file(source, ADAPTER_CONFIG_NAME, keywords):
        return None
    index = read_json(source, SAFE_WEIGHTS_INDEX_NAME, keywords)
    if index is not None:
        names = shard_names(index, f"{SAFE_WEIGHTS_INDEX_NAME} of {str(source)!r}", _OF_OWNER)
        lost = next((name for name in names if f"{_LACKS} {name}" in str(error)), None)
    else:
        lost = SAFE_WEIGHTS_NAME if find_file(source, SAFE_WEIGHTS_NAME, keywords) is None else None
    if lost is None:
        return None
    asked = f", which its {SAFE_WEIGHTS_INDEX_NAME} names" if index else ""
    hub: dict[str, Any] = {name: keywords.get(name) for name in ("revision", "token", "cache_dir")}
    pickled = index is None and has_file(str(source), WEIGHTS_NAME, **hub)
    return HalfModelError(
        f"{str(source)!r} has no file named {lost}{asked}: {f'{WEIGHTS_NAME} {_PICKLE}' if pickled else _OF_OWNER}"
    )


def _folder(source: str | os.PathLike, keywords: dict[str, Any]) -> Path | None:
    return Path(source, keywords.get("subfolder") or "") if os.path.isdir(source) else None


def _names_of_weights(keywords: dict[str, Any]) -> tuple[str, str]:
    """(file of all weights, index of several files) that `from_pretrained(**keywords)` looks for in this order."""
    if not (variant := keywords.get("variant")):
        return SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME
    return f"model.{variant}.safetensors", f"{SAFE_WEIGHTS_INDEX_NAME.removesuffix('.json')}.{variant}.json"


def _holds_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))


def _instead(folder: Path) -> str:
    """What to do where weights are not there."""
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if not pickles:
        return _ANEW
    return f"{pickles[0]} {_PICKLE}"


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_POINTER)) == _POINTER


def _what(file: Path) -> str:
    """What is the matter with a file that cannot be read, and what to do."""
    if _is_pointer(file):
        return "is a pointer of Git LFS and not the file: run `git lfs pull` in that folder, or fetch it again."
    return f"is truncated, or no safetensors ({file.stat().st_size:,} bytes): fetch it again, or save the model again."
