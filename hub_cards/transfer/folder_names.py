"""What is sent names no folder of the machine that it comes from."""

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from transformers.utils import logging

from ..travelling.saving import is_folder, without_folders

logger = logging.get_logger(__name__)


def without_folder_names(files: dict[str, Path], place: Path) -> dict[str, Path]:
    """The same files to send, {path in the repo: file}, in which none names a folder; the originals stay.

    Args:
        place: a folder for the copies that differ from their originals.
    """
    sent = {}
    for name, file in files.items():
        text = _cleaned(PurePosixPath(name).name, file)
        if text is not None:
            file = place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        sent[name] = file
    return sent


def shared_name(source: str) -> str:
    """What a result says of where something came from: a repo's id, or the own name of a file or folder."""
    if not Path(source).exists() and not is_folder(source):
        return source
    return os.path.basename(os.path.abspath(source))  # "." has a name, too


def _cleaned(name: str, file: Path) -> str | None:
    """The text to send in place of the file's; None where that names no folder."""
    if name in ("config.json", "tokenizer_config.json"):
        return without_folders(file)
    if name == "adapter_config.json":
        return _without(file, "base_model_name_or_path", None)
    if name == "trainer_state.json":  # of a checkpoint that is sent for resuming
        return _without(file, "best_model_checkpoint", "name")
    return None


def _without(file: Path, key: str, put: str | None) -> str | None:
    """A JSON file's text with the folder's own name (`put="name"`), or with null, where `key` names a folder."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        value = content.get(key)
    except (ValueError, AttributeError):  # not ours to mend
        return None
    if not isinstance(value, str) or not is_folder(value):
        return None
    content[key] = None if put is None else Path(value).name
    return json.dumps(content, indent=2) + "\n"


def warn_of_local_base(folder: Path) -> None:
    """A warning where the adapter in a folder names no base, or a folder, which nobody else has."""
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if base is None or (isinstance(base, str) and is_folder(base)):
        which = "is not named" if base is None else f"is the folder {base!r}, which others do not have"
        logger.warning(
            f"The base of the adapter in {str(folder)!r} {which}: the repo will name no base, and takes "
            "load_adapted(..., base=...). Send a complete model (`lookback merge`, then push that), or push the base "
            "and write its repo id as base_model_name_or_path in adapter_config.json."
        )
