# Copied from hub_cards/travelling/saving.py by "make copies": edit that one.
"""A folder that is saved into changes when everything is written, or not at all."""

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
)

from .leftovers_biencoder import left_in, weights_variant
from .locking_biencoder import alone, locked

# Inside a folder that is saved into: what is being written, and what is written and only has to take its place.
_PARTIAL, _WHOLE, _STALE = ".saving", ".saved", ".stale"
# What the system, safetensors and torch.save (2.13: "unexpected pos 64 vs 0") say of a full disk.
_FULL = ("No space left", "os error 28", "inline_container", "PytorchStreamWriter", "iostream error")
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PAUSE = 0.05  # seconds between two looks at a save that another process puts into its place
_READS = 5  # how often a folder that changes while it is read is begun anew


@contextmanager
def saved_whole(folder: Path, writes: bool = True) -> Iterator[Path]:
    """A folder to write into; its files come into `folder` when all are written, or not at all.

    Where another process saves into `folder`, this waits until it is done. Without `writes`, in a process that takes
    part in the save of another one, nothing comes into `folder`, and nothing is waited for.

    Raises ValueError where `folder` is a file, OSError where the disk is full or the other process never is done.
    """
    if folder.is_symlink() and not folder.exists():
        raise ValueError(f"{str(folder)!r} is a link to what is not there: make its target, or name another folder.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file: name a folder to save into.")
    if not writes:
        with TemporaryDirectory() as nowhere:
            yield Path(nowhere)
        return
    new = not folder.exists()
    with alone(folder):
        _place(folder)  # what a process that was ended has written as a whole
        with _written(folder, new) as partial:
            yield partial
        _place(folder)


@contextmanager
def _written(folder: Path, new: bool) -> Iterator[Path]:
    """A folder whose files are then written as a whole; a `folder` that is new goes again where they are not."""
    partial = folder / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was ended
    partial.mkdir(parents=True)
    try:
        if (folder / "README.md").is_file():  # its text stays
            shutil.copyfile(folder / "README.md", partial / "README.md")
        yield partial
        for file in partial.rglob(CONFIG_NAME):
            if (text := without_folders(file)) is not None:
                file.write_text(text, encoding="utf-8")
        (partial / _STALE).write_text("\n".join(left_in(folder, partial)))
        _check_targets(partial, folder)
        flush_folder(partial)
        os.rename(partial, folder / _WHOLE)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            if new:
                folder.rmdir()
        if is_full_disk(error):
            what = f"no space left to save into {str(folder)!r}, which is as it was: free some and save again"
            raise OSError(errno.ENOSPC, what) from error
        raise


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, the system's or that of a library with errors of its own, says that there is no space left."""
    known = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return known or ("StreamReader" not in str(error) and any(said in str(error) for said in _FULL))


def finish_save(folder: Path) -> None:
    """Put the files of a save that was written as a whole into their places, also if its process ended before.

    Where it has not ended this waits: the process does so itself.
    """
    while (folder / _WHOLE).is_dir():
        with locked(folder) as mine:
            if mine:
                _place(folder)
                return
        time.sleep(_PAUSE)


def _place(folder: Path) -> None:
    whole = folder / _WHOLE
    if not whole.is_dir():
        return
    _check_targets(whole, folder)
    for path in sorted(path for path in whole.rglob("*") if path.is_file() and path.name != _STALE):
        target = folder / path.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # without locks: another process has just put it there
            os.replace(path, target)
    stale = whole / _STALE
    for name in stale.read_text().splitlines() if stale.exists() else ():
        (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # others are there
            if (place := (folder / name).parent) != folder:
                place.rmdir()
    flush_folder(folder, files=False)
    with suppress(FileNotFoundError):
        shutil.rmtree(whole)


def _check_targets(written: Path, folder: Path) -> None:
    """ValueError where a folder stands in the place of a file that is written, or the other way round."""
    for path in sorted(written.rglob("*")):
        target = folder / path.relative_to(written)
        if target.exists() and target.is_dir() != path.is_dir():
            there, needed = ("folder", "file") if target.is_dir() else ("file", "folder")
            raise ValueError(
                f"{str(target)!r} is a {there}, and the model has a {needed} of that name: remove it, or name another "
                "folder to save into."
            )


def read_whole(folder: Path, read: Callable[[], Any]) -> Any:
    """What `read` makes of a folder, of one save alone: it is called anew where another one came in between.

    Raises OSError where that never ends.
    """
    for _ in range(_READS):
        finish_save(folder)
        before = _stamps(folder)
        try:
            found = read()
        except Exception:
            if _stamps(folder) == before:
                raise
            continue
        if _stamps(folder) == before:
            return found
        del found  # before there is another of its size
    raise OSError(
        errno.EBUSY, f"{str(folder)!r} was saved into {_READS} times while it was read: read it when that is over"
    )


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells a model's configuration and weights in a folder from those of another save."""
    stamps = {}
    for file in folder.iterdir():
        if weights_variant(file.name) is not None or file.name in (CONFIG_NAME, ADAPTER_CONFIG_NAME):
            with suppress(OSError):  # it has gone just now
                stamps[file.name] = file.stat().st_ino, file.stat().st_mtime_ns
    return stamps


def is_folder(name: str) -> bool:
    """Whether the name of a model is that of a folder on this machine or another, and no id of a repo."""
    return os.path.isdir(name) or not _REPO_ID.fullmatch(name)


def without_folders(file: Path) -> str | None:
    """A configuration's text without the folders that its parts were loaded from; None where it names none."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # not ours to mend
        return None
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n" if _drop_folders(config) else None


class FolderlessConfig:
    """Mixed into a configuration: its text, saved or printed, names no folder that a part was loaded from."""

    def to_json_string(self, use_diff: bool = True) -> str:
        """As in transformers."""
        config = json.loads(super().to_json_string(use_diff))  # type: ignore[misc]  # PreTrainedConfig's
        _drop_folders(config)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"


def name_folders_whole(config: Any) -> None:
    """Let a configuration name the folders that it and its parts were loaded from by their absolute paths.

    Nobody can tell a relative one that is gone from a repo's id; and an adapter finds its base from elsewhere, too.
    """
    name = getattr(config, "_name_or_path", None)
    if name and os.path.isdir(name):
        config._name_or_path = os.path.abspath(name)
    for part in getattr(config, "sub_configs", ()):
        name_folders_whole(getattr(config, part, None))


def _drop_folders(part: Any) -> bool:
    found = False
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        found = _drop_folders(value) or found
    for key in ("_name_or_path", "name_or_path") if isinstance(part, dict) else ():
        if isinstance(name := part.get(key), str) and name and is_folder(name):
            del part[key]
            found = True
    return found


def flush_folder(folder: Path, files: bool = True) -> None:
    """Have the files below a folder, and the folder itself, written to the disk before the next step."""
    for path in folder.rglob("*") if files else ():
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
