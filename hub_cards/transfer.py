"""A saved model to the Hub and back; weights travel as safetensors alone, pickles are refused."""

import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitInfo, HfApi, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import filter_repo_objects
from transformers import PreTrainedModel

from .card import read_card, write_card
from .merge import is_generated, merge_cards

# Formats that run code when they are loaded.
PICKLES = ("*.bin", "*.ckpt", "*.dill", "*.joblib", "*.pickle", "*.pkl", "*.pt", "*.pth")
# What a training leaves beside the model: not part of it, and not sent or fetched.
BYPRODUCTS = ("_*", "checkpoint-*/*", "runs/*", "training_args.bin", "trainer_state.json", ".*", "*/.*")
FETCHED = ("*.safetensors", "*.json", "*.py", "*.jinja", "*.txt", "*.model", "*.md", "LICENSE*", "*.png", "*.svg")


def push(
    source: str | Path | PreTrainedModel,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload model with Lookback",
    create_pr: bool = False,
) -> CommitInfo:
    """Send a model, or the folder it was saved in, to the Hub in one commit; the repo is created if missing.

    A card that stands on the Hub keeps what a person wrote in it, unless the folder's own card was edited.

    Args:
        source: a model of one of the three families, or a folder with a `config.json` or `adapter_config.json`.
        repo_id: `user/name`.
        private: for a repo that is created; default the account's setting.
        revision: branch to commit to, created if missing; default the main branch.
        token: access token; default the one that is logged in.

    Returns: the commit, with `oid` and `commit_url`.

    Raises:
        TypeError, ValueError: before anything is sent, for a folder without a model or with pickle files.
    """
    if isinstance(source, PreTrainedModel):
        with tempfile.TemporaryDirectory() as folder:
            source.save_pretrained(folder)
            write_card(source, folder, repo_id=repo_id)
            return push(
                folder, repo_id, private=private, revision=revision, token=token,
                commit_message=commit_message, create_pr=create_pr,
            )  # fmt: skip
    if not isinstance(source, str | Path):
        raise TypeError(f"source is a {type(source).__name__} but must be a model or the folder it was saved in.")
    _check_files(_files(Path(source)), f"folder {str(source)!r}", "save the model with save_pretrained")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    _keep_hub_card(Path(source), repo_id, revision, token)
    return api.upload_folder(
        repo_id=repo_id, folder_path=source, revision=revision, commit_message=commit_message, create_pr=create_pr,
        ignore_patterns=list(BYPRODUCTS),
    )  # fmt: skip


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
) -> Path:
    """Fetch a model's repo: safetensors, configs, tokenizers, code and card, all of one commit.

    Args:
        repo_id: `user/name`.
        revision: branch, tag or commit; default the main branch. Give a commit to get the same files for ever.
        cache_dir, local_dir: where to put it; default the Hub client's cache.

    Returns: the folder, for `from_pretrained`.

    Raises:
        ValueError: before anything is fetched, for a repo without a model or with pickle files.
    """
    info = HfApi(token=token).model_info(repo_id, revision=revision)
    names = [file.rfilename for file in info.siblings or []]
    _check_files(names, f"repo {repo_id!r}", "ask its owner to save it as safetensors")
    folder = snapshot_download(
        repo_id, revision=info.sha, token=token, cache_dir=cache_dir, local_dir=local_dir,
        allow_patterns=list(FETCHED), ignore_patterns=list(BYPRODUCTS),
    )  # fmt: skip
    return Path(folder)


def _files(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is no folder: pass a model, or a folder made by save_pretrained.")
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _check_files(names: Iterable[str], where: str, fix: str) -> None:
    names = sorted(filter_repo_objects(names, ignore_patterns=list(BYPRODUCTS)))
    pickles = [name for name in names if any(PurePosixPath(name.lower()).match(pattern) for pattern in PICKLES)]
    if pickles:
        raise ValueError(
            f"{where} has {', '.join(pickles)}: a pickle can run any code when it is loaded, so only safetensors "
            f"travel. Remove it, or {fix}."
        )
    if not {"config.json", "adapter_config.json"} & set(names):
        raise ValueError(f"{where} has neither config.json nor adapter_config.json, so holds no model: {fix}.")


def _keep_hub_card(folder: Path, repo_id: str, revision: str | None, token: str | bool | None) -> None:
    """Put what a person wrote on the Hub into the folder's card, where nobody has written in that one."""
    path = folder / "README.md"
    if path.is_file() and not is_generated(read_card(path)):
        return
    try:
        on_hub: ModelCard = read_card(Path(hf_hub_download(repo_id, path.name, revision=revision, token=token)))
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        return
    if path.is_file():
        on_hub = merge_cards(on_hub, read_card(path), given=set())
    on_hub.save(path)
