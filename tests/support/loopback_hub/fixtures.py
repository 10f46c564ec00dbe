"""What test files that push or pull need; `tests/conftest.py` makes a fixture of `hub` for all of them."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.file_download
import huggingface_hub.utils._http as client
import pytest

from hub_cards.transfer import retries

from .client import in_process
from .repos import Blob, goes_to_lfs
from .server import LoopbackHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A running Hub, in which this process is logged in as `user`; what waits between tries does not wait."""
    with LoopbackHub() as hub:
        in_process(hub, monkeypatch, tmp_path_factory.mktemp("hf_home"), token="hf_write")
        quicken(monkeypatch)
        yield hub


def quicken(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let tries follow each other at once; the list gets the seconds that our own ones would have waited."""

    class Clock:
        def __init__(self, waits: list[float]) -> None:
            self.sleep = waits.append

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

    waits: list[float] = []
    monkeypatch.setattr(retries, "time", Clock(waits))
    for module in (client, huggingface_hub.file_download):
        monkeypatch.setattr(module, "time", Clock([]))
    return waits


def read(hub: LoopbackHub, path: str, repo_id: str = "user/repo", revision: str = "main") -> str:
    """A text file of a repo."""
    return hub.repos[repo_id].files(revision)[path].decode()


def commit(hub: LoopbackHub, repo_id: str, folder: Path | None = None, **texts: str) -> str:
    """Put a folder's files, and texts by name (`__` for `.`), on the main branch; returns the commit id."""
    repo = hub.repos.get(repo_id) or hub.create(repo_id)
    files = {name.replace("__", "."): text.encode() for name, text in texts.items()}
    for path in sorted(folder.rglob("*")) if folder else []:
        if path.is_file():
            files[path.relative_to(folder or path).as_posix()] = path.read_bytes()
    hub.lfs_objects.update({hashlib.sha256(data).hexdigest(): data for data in files.values()})
    blobs = {name: Blob(data, goes_to_lfs(name, len(data))) for name, data in files.items()}
    return repo.commit("main", "by hand", {**repo.at().files, **blobs}).oid
