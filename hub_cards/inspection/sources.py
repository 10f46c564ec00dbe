"""Where a repo's files lie, a folder or the Hub, and parts of them, read into memory alone."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import ModelInfo, hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

from ..transfer.retries import TransferError, retried
from ..transfer.verification import damaged_content


@dataclass(frozen=True)
class Entry:
    """A file: its path in the repo, its size in bytes, and where it leads if that is outside of the repo."""

    name: str
    size: int
    target: str | None = None


class Source(Protocol):
    """A repo to look at."""

    where: str  # for people
    commit: str | None

    def entries(self) -> list[Entry]:
        """All files, by name."""

    def read(self, name: str, start: int, size: int) -> bytes:
        """At most `size` bytes from `start` on; fewer at the file's end."""


class FolderSource:
    """A folder on disk. A symbolic link within it, or into the blobs of the Hub's cache, is a file as others."""

    commit: str | None = None

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.where = Path(folder), f"folder {str(folder)!r}"

    def entries(self) -> list[Entry]:
        """All files, by name; folders behind links are not entered."""
        return sorted(self._walk(), key=lambda entry: entry.name)

    def read(self, name: str, start: int, size: int) -> bytes:
        """At most `size` bytes from `start` on."""
        with open(self.folder / name, "rb") as file:
            file.seek(start)
            return file.read(size)

    def _walk(self) -> Iterator[Entry]:
        inside = [self.folder.resolve()]
        if self.folder.parent.name == "snapshots":  # of the Hub's cache
            inside.append((self.folder.parent.parent / "blobs").resolve())
        for parent, folders, names in os.walk(self.folder):
            links = [name for name in folders if Path(parent, name).is_symlink()]
            for name in [*names, *links]:
                path = Path(parent, name)
                target = path.resolve()
                leaves = not any(target.is_relative_to(root) for root in inside)
                size = target.stat().st_size if target.is_file() and not leaves else 0
                yield Entry(path.relative_to(self.folder).as_posix(), size, str(target) if leaves else None)


class HubSource:
    """A repo on the Hub at one commit, whatever is pushed meanwhile."""

    def __init__(self, info: ModelInfo, token: str | bool | None = None) -> None:
        """`info` is from `model_info(files_metadata=True)`."""
        self._info, self._token, self.commit = info, token, info.sha
        self._files = {file.rfilename: file for file in info.siblings or []}
        self.where = f"repo {info.id!r}"

    def entries(self) -> list[Entry]:
        """All files, by name."""
        entries = [Entry(file.rfilename, file.size or 0) for file in self._files.values()]
        return sorted(entries, key=lambda entry: entry.name)

    def read(self, name: str, start: int, size: int) -> bytes:
        """At most `size` bytes from `start` on, by a request for this range alone.

        Raises TransferError, with the file's name, where it cannot be read or a file's whole content is damaged.
        """
        what = f"reading {name!r} of {self._info.id!r}"
        remote = self._files[name]
        for _ in range(2):
            found = retried(lambda: self._request(name, start, size), what)
            if start or len(found) < (remote.size or 0) or not damaged_content(found, remote):
                return found
        raise TransferError(f"{what}: it arrived damaged twice, its content is not what the Hub's checksum says.")

    def _request(self, name: str, start: int, size: int) -> bytes:
        url = hf_hub_url(self._info.id, name, revision=self.commit)
        headers = {**build_hf_headers(token=self._token), "Range": f"bytes={start}-{start + size - 1}"}
        once: dict[str, Any] = {"max_retries": 0, "retry_on_status_codes": ()}  # `retried` tries again
        with http_stream_backoff("GET", url, headers=headers, follow_redirects=True, **once) as response:
            hf_raise_for_status(response)
            skip = start if response.status_code == 200 else 0  # the server knows no ranges
            found = bytearray()
            for part in response.iter_bytes():
                found += part
                if len(found) >= skip + size:
                    break
            return bytes(found[skip : skip + size])
