"""Places to write to and names of repos, before any work is done: what cannot be is said at once."""

import errno
import os
import tempfile
from pathlib import Path

from huggingface_hub.utils import HFValidationError, validate_repo_id

from hub_cards.whole_files import refuse_read

_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_folder(name: str, folder: str | Path) -> None:
    """ValueError, with the option's name, for a folder that cannot be made, or not be written to."""
    asked = f"{name}={str(folder)!r}"
    if not str(folder).strip():
        raise ValueError(f"{asked} must be the name of a folder: give one.")
    place = Path(folder)
    if os.path.lexists(place) and not place.is_dir():
        raise ValueError(f"{asked} is no folder: name a folder, or another place.")
    _check_writable(asked, place)


def check_file(name: str, file: str | Path, **sources: str | None) -> None:
    """ValueError, with the option's name, for a file that cannot be written, or in what is read: options' values by
    their names. Its folder may be one to be made."""
    asked, path = f"{name}={str(file)!r}", Path(file)
    if path.is_dir():
        raise ValueError(f"{asked} is a folder: name a file in it.")
    os.path.lexists(path)
    _check_writable(asked, path.parent)
    try:
        path.with_name(f".{path.name}.parts").exists()  # the longest name beside it
    except OSError as error:
        raise ValueError(f"{asked} cannot be written ({error.strerror}): give it another name.") from error
    refuse_read(name, file, **sources)


def _check_writable(asked: str, folder: Path) -> None:
    folder = folder.absolute()
    there = next(part for part in (folder, *folder.parents) if os.path.lexists(part))
    if not there.is_dir():
        raise ValueError(f"{asked} lies below {str(there)!r}, which is no folder: name another place.")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise ValueError(f"{asked} cannot be written ({error.strerror}): name another place.") from error


def check_model_name(name: str, source: str | None) -> None:
    """ValueError, with the option's name, for what is neither a folder nor can be a repo's id; None may be."""
    if source is None or os.path.isdir(source):
        return
    if os.path.isabs(source) or os.path.lexists(source):
        raise ValueError(f"{name}={source!r} is no folder of a model: name one that is there, or user/name.")
    check_repo_id(name, source)


def check_repo_id(name: str, repo_id: str) -> None:
    """ValueError, with the option's name, for what can be no repo's id on the Hub."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        problem = str(error).partition(": ")[0].rstrip(".")
        raise ValueError(f"{name}={repo_id!r} cannot be the name of a repo ({problem}): give user/name.") from None
