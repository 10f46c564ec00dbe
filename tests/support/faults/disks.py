"""A file system of its own that a run finds full, from a change of its files on."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .runs import Ended, Server, files

SIZE = 32 << 20


@contextmanager
def mounted(folder: Path) -> Iterator[str | None]:
    """A tmpfs at the folder; yields why there is none, where none may be mounted."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    try:
        yield done.stderr.strip() or "no mount" if done.returncode else None
    finally:
        if not done.returncode:
            subprocess.run(["umount", "--lazy", folder], check=True)


@dataclass(frozen=True)
class Work:
    """A command that writes into a folder.

    `argv` takes the folder, `assert_same` that of a run with space and that of one that was without; `settings` are
    those of the server.
    """

    command: str
    argv: Callable[[Path], list[str]]
    assert_same: Callable[[Path, Path], None]
    settings: Callable[[Path], dict[str, Any]] = field(default=lambda place: {})


def changes_of(server: Server, work: Work, folder: Path) -> tuple[Path, list[str]]:
    """A run with space: its folder, and what it changes there, a line each."""
    place, trace = folder / "whole", folder / "changes"
    place.mkdir(parents=True)
    ended = server.run(work.argv(place), watch={"watch": str(place), "trace": str(trace)}, **work.settings(place))
    assert ended.status == 0, ended.said
    return place, trace.read_text().replace(str(place), "").splitlines()


def starve(server: Server, work: Work, place: Path, number: int, left: int) -> Ended:
    """A run in a folder on the disk that has `left` bytes from change `number` on; there is space again behind it."""
    filler = place.parent / "filler"
    watch = {"watch": str(place), "fill_at": number, "filler": str(filler), "left": left}
    try:
        return server.run(work.argv(place), watch=watch, **work.settings(place))
    finally:
        filler.unlink(missing_ok=True)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {name: (folder / name).read_bytes() for name in files(folder)}


def size(folder: Path) -> int:
    return sum(os.path.getsize(folder / name) for name in files(folder))
