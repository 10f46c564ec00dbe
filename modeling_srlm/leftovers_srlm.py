# Copied from hub_cards/travelling/leftovers.py by "make copies": edit that one.
"""What a former model leaves in a folder or repo, and would be read with, or in place of, the one saved over it."""

import json
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CHAT_TEMPLATE_DIR,
    CHAT_TEMPLATE_FILE,
    CONFIG_NAME,
)

# Full weights, their shards and their index, each also of a variant.
_WEIGHTS = re.compile(
    r"model(?:\.([^.]+?))?(?:-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index(?:\.([^.]+))?\.json"
)
_ADAPTER = {ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME}  # transformers would load its base and it
# Of one family's models alone: a bi-encoder in sentence-transformers, the retriever of a self-retrieval LM.
_OF_A_FAMILY = ("modules.json", "config_sentence_transformers.json", "retriever_tokenizer")
# What a tokenizer is read with where it is there, and is not written for every one; the last two by older versions.
_TOKENIZER = "tokenizer_config.json"
_OF_A_TOKENIZER = (CHAT_TEMPLATE_FILE, CHAT_TEMPLATE_DIR, "special_tokens_map.json", "added_tokens.json")
_OURS = "lookback_"


def weights_variant(name: str) -> str | None:
    """The variant that a file of full weights is of, "" for none; None for another file."""
    found = _WEIGHTS.fullmatch(name)
    return None if found is None else found[1] or found[2] or ""


def left_over(
    there: Iterable[str], new: Iterable[str], kind: str = "", former: str = "", code: Collection[str] = ()
) -> list[str]:
    """Those of the files `there`, by their paths in a folder or repo, that must go when the `new` ones come.

    With full weights these are other weights, adapters, and what belongs to a model of another family; with a
    tokenizer what another was read with. All else stays.

    Args:
        kind, former: `model_type` of the configuration that comes, and of the one that is there, where that is known.
        code: the files that the code of the one that is there consists of, and no script beside them.
    """
    new = set(new)
    variants = {weights_variant(name) for name in new} - {None}
    full, ours = bool(variants), kind.startswith(_OURS) or former.startswith(_OURS)
    code = code if former.startswith(_OURS) and former != kind else ()

    def goes(name: str) -> bool:
        path = PurePosixPath(name)
        if full and "/" not in name and (weights_variant(name) in variants or name in _ADAPTER):
            return True
        if full and ours and (path.parts[0] in _OF_A_FAMILY or name in code):
            return True
        where = path.parent.parent if path.parent.name == CHAT_TEMPLATE_DIR else path.parent
        return path.relative_to(where).parts[0] in _OF_A_TOKENIZER and (where / _TOKENIZER).as_posix() in new

    return sorted(name for name in there if name not in new and goes(name))


def left_in(folder: Path, new: Path) -> list[str]:
    """`left_over` of a folder, for what is saved in another one to be put into it."""
    names = [path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()]
    places = {folder / name for name in (*_OF_A_FAMILY, CHAT_TEMPLATE_DIR)}
    places |= {folder / PurePosixPath(name).parent for name in names}
    files = [*folder.iterdir(), *(file for place in places - {folder} if place.is_dir() for file in place.rglob("*"))]
    there = {file.relative_to(folder).as_posix() for file in files if file.is_file()}
    kind, former = kind_of(_config(new)), _config(folder)
    return left_over(there, names, kind, kind_of(former), _code_in(folder, former))


def _code_in(folder: Path, config: Any) -> set[str]:
    """The files that a configuration's `auto_map` names, and those that they import, with their family's ending."""
    named = config.get("auto_map") if isinstance(config, dict) else None
    modules = [str(name).partition(".")[0] for name in (named.values() if isinstance(named, dict) else ())]
    ending = f"_{kind_of(config).removeprefix(_OURS)}"
    found: set[str] = set()
    while modules:
        file = folder / f"{modules.pop()}.py"
        if file.name in found or not file.stem.endswith(ending) or not file.is_file():
            continue
        found.add(file.name)
        with suppress(ValueError):  # no text: it imports nothing
            modules += get_relative_imports(file)
    return found


def _config(folder: Path) -> Any:
    try:
        return json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none is there, or none that could be read
        return None


def kind_of(config: Any) -> str:
    """`model_type` of a configuration, "" where it has none."""
    return str(config.get("model_type") or "") if isinstance(config, dict) else ""
