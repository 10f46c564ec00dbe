"""Files of a repo, fetched and held against the checksums that the Hub has of them."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelInfo, hf_hub_download, snapshot_download
from huggingface_hub.hf_api import RepoSibling
from tqdm.auto import tqdm

from .retries import TransferError, is_transient, retried


def damaged(path: Path, remote: RepoSibling) -> bool:
    """Whether a file is not what the Hub has: by its SHA-256 where it is in LFS, else by its git object id."""
    if remote.lfs is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != remote.lfs.sha256
    return damaged_content(path.read_bytes(), remote)


def damaged_content(data: bytes, remote: RepoSibling) -> bool:
    """The same for a file's content in memory."""
    if remote.lfs is not None:
        return hashlib.sha256(data).hexdigest() != remote.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() != remote.blob_id


def fetch_verified(
    repo_id: str, info: ModelInfo, names: Iterable[str], allow: list[str], ignore: list[str], **where: Any
) -> Path:
    """Fetch files of the commit in `info`, and compare each with its checksum; one that differs is fetched anew.

    Args:
        info: from `model_info(files_metadata=True)`.
        names: the files that the patterns `allow` and `ignore` let through.
        where: `token`, `cache_dir` and `local_dir` of `snapshot_download`.

    Returns: the folder.

    Raises TransferError, with the file's name, for one that cannot be fetched or arrives damaged again.
    """
    names = sorted(names)
    try:
        folder = Path(
            snapshot_download(repo_id, revision=info.sha, allow_patterns=allow, ignore_patterns=ignore, **where)
        )
    except Exception as error:  # which file it was, it does not say: one after the other then
        if not _broke_off(error):
            raise
        folder = _one_by_one(repo_id, info, names, **where)
    known = {sibling.rfilename: sibling for sibling in info.siblings or []}
    for name in tqdm(names, desc="Checking", unit="file", delay=2.0):
        if not (folder / name).is_file() or not damaged(folder / name, known[name]):
            continue
        _fetch(repo_id, info, name, force_download=True, **where)
        if damaged(folder / name, known[name]):
            _forget(folder / name)
            raise TransferError(
                f"{name!r} of {repo_id!r} arrived damaged twice: its content is not what the Hub's checksum says. It "
                "was removed; pull again, and if that does not help, ask the repo's owner to push the file again."
            )
    return folder


def _one_by_one(repo_id: str, info: ModelInfo, names: list[str], **where: Any) -> Path:
    for name in tqdm(names, desc="Fetching again", unit="file"):
        file = _fetch(repo_id, info, name, **where)
    return Path(str(file).removesuffix(name.replace("/", os.sep)))


def _fetch(repo_id: str, info: ModelInfo, name: str, **keywords: Any) -> str:
    what = f"fetching {name!r} of {repo_id!r}"
    try:
        return retried(lambda: hf_hub_download(repo_id, name, revision=info.sha, **keywords), what)
    except Exception as error:
        if isinstance(error, TransferError) or not _broke_off(error):
            raise
        raise TransferError(f"{what} broke off: {str(error).splitlines()[0]} Pull again.") from error


def _broke_off(error: Exception) -> bool:
    # The client raises a bare OSError where fewer bytes came than were announced.
    return is_transient(error) or "Consistency check failed" in str(error)


def _forget(path: Path) -> None:
    """Remove a file, and what it is a link to in the Hub's cache."""
    Path(os.path.realpath(path)).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
