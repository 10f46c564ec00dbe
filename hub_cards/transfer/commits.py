"""Files to a repo in one commit: all of them, or none."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import CONFIG_NAME

from ..travelling.leftovers import kind_of, left_over
from .retries import TransferError, is_transient, retried
from .verification import damaged

# Weights, of which a repo has one set: another that stays from an earlier push would be loaded in its place.
WEIGHTS = (
    "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors",
    "adapter_config.json",
)  # fmt: skip


class RepoChangedError(Exception):
    """Somebody else has committed to the branch in the meantime."""


def commit_files(
    api: HfApi,
    repo_id: str,
    head: ModelInfo,
    files: dict[str, Path],
    message: str,
    revision: str | None,
    create_pr: bool,
) -> CommitInfo:
    """Send files in one commit on top of `head`; the branch stays as it is until all of them have arrived.

    The client's own `upload_folder` would split a push into several commits where Xet is in use.

    Args:
        head: the repo as `model_info` gives it; the commit is made on this state of the branch or not at all.
        files: path in the repo -> file.

    Raises:
        RepoChangedError: where the branch is no longer at `head`.
        TransferError: where the connection or the Hub kept failing; nothing has changed in the repo then.
    """
    adds = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *adds,
        *(CommitOperationDelete(name) for name in _stale(head, files)),
    ]

    def send() -> CommitInfo:
        return api.create_commit(
            repo_id, list(operations), commit_message=message, revision=revision, create_pr=create_pr,
            parent_commit=head.sha,
        )  # fmt: skip

    try:
        # A second pull request would be opened where the answer alone was lost.
        return send() if create_pr else retried(send, f"the commit to {repo_id!r}")
    except HfHubHTTPError as error:
        if error.response.status_code != 412:  # 412: the branch is not at `head`
            raise
        return _lost_answer(api, repo_id, revision, files, message)
    except Exception as error:
        if isinstance(error, TransferError) or is_transient(error) or is_transient(error.__cause__ or error):
            raise TransferError(
                f"the push to {repo_id!r} broke off, and the repo is as it was: {error} Push again: what has arrived "
                "is not sent twice."
            ) from error
        raise


def _lost_answer(api: HfApi, repo_id: str, revision: str | None, files: dict[str, Path], message: str) -> CommitInfo:
    """The commit that an earlier try made, whose answer did not arrive; RepoChangedError if it is somebody else's."""
    now = head_of(api, repo_id, revision)
    there = {sibling.rfilename: sibling for sibling in now.siblings or []}
    if any(name not in there or damaged(path, there[name]) for name, path in files.items()):
        raise RepoChangedError(repo_id)
    return CommitInfo(f"{api.endpoint}/{repo_id}/commit/{now.sha}", message, "", now.sha or "")


def head_of(api: HfApi, repo_id: str, revision: str | None) -> ModelInfo:
    """The repo at a revision, with its files' checksums."""
    return retried(lambda: api.model_info(repo_id, revision=revision, files_metadata=True), f"looking at {repo_id!r}")


def _stale(head: ModelInfo, files: dict[str, Path]) -> list[str]:
    """Files of the repo that must go: what a former model left, and what else lies in the folders that are sent."""
    folders = {name.split("/")[0] + "/" for name in files if name.startswith(("last-checkpoint/", "checkpoint-"))}
    names = [sibling.rfilename for sibling in head.siblings or [] if sibling.rfilename not in files]
    sends_weights = any(fnmatchcase(name, pattern) for name in files for pattern in WEIGHTS)
    left = left_over(names, files, _kind(files))
    return [
        name
        for name in names
        if name in left
        or (sends_weights and any(fnmatchcase(name, pattern) and "/" not in name for pattern in WEIGHTS))
        or any(name.startswith(folder) for folder in folders)
    ]


def _kind(files: dict[str, Path]) -> str:
    config = files.get(CONFIG_NAME)
    try:
        return kind_of(json.loads(config.read_text(encoding="utf-8"))) if config is not None else ""
    except ValueError:
        return ""
