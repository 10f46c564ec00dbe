"""A saved model to the Hub and back; weights travel as safetensors alone, pickles are refused."""

import glob
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, constants
from huggingface_hub.utils import filter_repo_objects
from transformers import PreTrainedModel

from ..cards.card import write_card
from ..cards.sent_card import card_to_send
from ..inspection.file_checks import BYPRODUCTS, PICKLES, matches
from ..inspection.inspection import FETCHED, Inspection, look_at
from ..inspection.sources import HubSource
from ..travelling.saving import finish_save
from ..whole_files import full_disk_named
from .commits import RepoChangedError, commit_files, head_of
from .folder_names import warn_of_local_base, without_folder_names
from .retries import TransferError, retried
from .verification import fetch_verified

_RACES = 3


def push(
    source: str | Path | PreTrainedModel,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload model with Lookback",
    create_pr: bool = False,
    beside: dict[str, Path] | None = None,
) -> CommitInfo | None:
    """Send a model, or the folder it was saved in, to the Hub in one commit; the repo is created if missing.

    A card that stands on the Hub keeps what a person wrote in it, unless the folder's own card was edited; one that
    was saved without a repo id names it when it is sent. The folder stays as it is. Weights of an earlier push under
    other names (shards, an adapter) are removed. Where the connection breaks or the Hub is busy, it is tried again;
    the repo does not change until everything has arrived. Of several processes that call this with a model the first
    one sends; the others take part in gathering weights that are shared out, and do not wait for the Hub.

    Args:
        source: a model of one of the three families, or a folder with a `config.json` or `adapter_config.json`.
        repo_id: `user/name`.
        private: for a repo that is created; default the account's setting.
        revision: branch to commit to, created if missing; default the main branch.
        token: access token; default the one that is logged in.
        beside: files to send along that are no part of the model and not checked: path in the repo -> file.

    Returns: the commit, with `oid` and `commit_url`; None in the other processes of a model.

    Raises:
        TypeError, ValueError: before anything is sent, for a folder without a model or with pickle files.
        TransferError: where the push broke off; the repo is as it was.
    """
    if isinstance(source, PreTrainedModel):
        with tempfile.TemporaryDirectory() as temporary:
            source.save_pretrained(temporary)
            if not source.should_save_on_this_rank(True):  # which has written nothing
                return None
            write_card(source, temporary, repo_id=repo_id)
            return push(
                temporary, repo_id, private=private, revision=revision, token=token,
                commit_message=commit_message, create_pr=create_pr, beside=beside,
            )  # fmt: skip
    if not isinstance(source, str | Path):
        raise TypeError(f"source is a {type(source).__name__} but must be a model or the folder it was saved in.")
    folder = Path(source)
    finish_save(folder)
    names = _files(folder)
    _check_files(names, f"folder {str(source)!r}", "save the model with save_pretrained")
    warn_of_local_base(folder)
    api = HfApi(token=token)
    what = f"the push to {repo_id!r}"
    repo_id = retried(lambda: api.create_repo(repo_id, private=private, exist_ok=True), what).repo_id
    if revision is not None and not create_pr:
        retried(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True), what)
    files = {name: folder / name for name in filter_repo_objects(names, ignore_patterns=list(BYPRODUCTS))}
    with full_disk_named(tempfile.gettempdir()), tempfile.TemporaryDirectory() as place:
        files = without_folder_names({**files, **(beside or {})}, Path(place, "files"))
        for _ in range(_RACES):
            head = head_of(api, repo_id, revision)
            card = card_to_send(folder, repo_id, head, token, Path(place))
            sent = {**files, **({"README.md": card} if card else {})}
            try:
                return commit_files(api, repo_id, head, sent, commit_message, revision, create_pr)
            except RepoChangedError:  # by somebody else, since: once more, on top of that
                continue
    raise TransferError(f"{what} failed: others commit to it all the time. Push again later.")


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    allow_unsafe: bool = False,
) -> Path:
    """Fetch a model's repo: safetensors, configs, tokenizers, code and card, all of one commit.

    Args:
        repo_id: `user/name`.
        revision: branch, tag or commit; default the main branch. Give a commit to get the same files for ever.
        cache_dir, local_dir: where to put it; default the Hub client's cache.
        allow_unsafe: fetch what `inspect` refuses, too, such as code of somebody else's that you have read. Pickles,
            programs and paths that leave the folder stay behind all the same.

    Returns: the folder, for `from_pretrained`.

    Raises:
        ValueError: before anything is fetched, for a repo without a model, and for one that `inspect` refuses.
        TransferError: with the file's name, for one that cannot be fetched, or whose content is not what the Hub's
            checksum says.
    """
    info = head_of(HfApi(token=token), repo_id, revision)
    found = look_at(HubSource(info, token))
    if not allow_unsafe:
        _check_safe(found)
    names = [file.name for file in found.files]
    _check_model(set(names), found.where, "ask its owner to save it with save_pretrained")
    allow, ignore = list(FETCHED), [*BYPRODUCTS, *map(glob.escape, found.harmful)]
    wanted = filter_repo_objects(names, allow_patterns=allow, ignore_patterns=ignore)
    where: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_dir": local_dir}
    with full_disk_named(local_dir or cache_dir or constants.HF_HUB_CACHE):
        return fetch_verified(repo_id, info, wanted, allow, ignore, **where)


def _files(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is no folder: pass a model, or a folder made by save_pretrained.")
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _check_files(names: Iterable[str], where: str, fix: str) -> None:
    names = sorted(filter_repo_objects(names, ignore_patterns=list(BYPRODUCTS)))
    pickles = [name for name in names if matches(name, PICKLES)]
    if pickles:
        raise ValueError(
            f"{where} has {', '.join(pickles)}: a pickle can run any code when it is loaded, so only safetensors "
            f"travel. Remove it, or {fix}."
        )
    _check_model(set(names), where, fix)


def _check_safe(found: Inspection) -> None:
    if found.refusals:
        reasons = "\n".join(map(str, found.refusals))
        raise ValueError(
            f"{found.where} at commit {found.commit} is not safe to load:\n{reasons}\nIf you have looked at all of it "
            "and want it as it is, say so with allow_unsafe=True (--allow_unsafe)."
        )


def _check_model(names: set[str], where: str, fix: str) -> None:
    if not {"config.json", "adapter_config.json"} & names:
        raise ValueError(f"{where} has neither config.json nor adapter_config.json, so holds no model: {fix}.")
