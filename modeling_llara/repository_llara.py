"""A model that keeps its tokenizer, and whose folder is a complete repo: weights, code, tokenizer, model card.

The code of a model on the Hub brings all that it needs, so each family's folder has this file, letter for letter.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
    logging,
)

# Keywords of from_pretrained that say where a repo is: what finds the model finds its tokenizer.
HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# What is sent without Lookback: files of the model, and no pickle that a training left beside them.
_SENT = (".safetensors", ".json", ".py", ".jinja", ".txt", ".model", ".md")
_UPLOAD_KEYWORDS = ("commit_message", "create_pr", "private", "revision", "token")
# Inside a folder that is saved into: what is being written, and what is written and only has to take its place.
_PARTIAL, _WHOLE, _STALE = ".saving", ".saved", ".stale"
logger = logging.get_logger(__name__)


class CompleteRepository(PreTrainedModel):
    """Base class of a model that saves, pushes and loads with its tokenizer."""

    _tokenizer: PreTrainedTokenizerBase | None = None
    _tokenizer_source: tuple[str, dict[str, Any]] | None = None  # (repo id or folder, keywords for loading from it)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded when first needed from where the model came from; ValueError if there is none."""
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise TypeError(
                f"tokenizer must be a transformers tokenizer, not {type(tokenizer).__name__}: "
                "AutoTokenizer.from_pretrained(...) gives one."
            )
        self._tokenizer = tokenizer

    def _load_tokenizer(self, folder: str = "") -> PreTrainedTokenizerBase:
        """The tokenizer in a folder of the repo that the model came from."""
        if self._tokenizer_source is None:
            raise ValueError("the model has no tokenizer: build it with tokenizer=..., or set model.tokenizer.")
        source, keywords = self._tokenizer_source
        subfolder = "/".join(part for part in (keywords.get("subfolder"), folder) if part)
        try:
            return AutoTokenizer.from_pretrained(source, **{**keywords, "subfolder": subfolder})
        except (OSError, ValueError, KeyError) as error:
            where = f"{source!r}, folder {subfolder!r}" if subfolder else repr(source)
            raise ValueError(f"no tokenizer could be loaded from {where}: set model.tokenizer.") from error

    def _remember_source(self, source: str | os.PathLike, keywords: dict[str, Any]) -> None:
        # Code in the repo runs only where the caller said so; without a word, transformers would ask at the terminal.
        trust = bool(keywords.get("trust_remote_code"))
        kept = {name: keywords[name] for name in HUB_KEYWORDS if name in keywords}
        commit = commit_of(source, kept)
        if commit:  # the branch may move on before the tokenizer is needed
            kept["revision"] = commit
        if self.name_or_path:
            self.config._commit_hash = commit
            self._compare_base()
        self._tokenizer_source = (str(source), {**kept, "trust_remote_code": trust})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers, but from safetensors alone; the tokenizer comes later from the same repo and revision.

        Raises OSError with the file's name where weights are truncated or not what their checksum says.
        """
        refuse_pickles(kwargs)
        source = pretrained_model_name_or_path
        if source is not None and os.path.isdir(source):
            finish_save(Path(source))
        keywords = {name: kwargs[name] for name in HUB_KEYWORDS if name in kwargs}  # transformers takes them out
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (SafetensorError, OSError, RuntimeError) as error:
            damaged = [] if source is None else _damaged_files(source, keywords)
            if not damaged:
                raise
            raise OSError(
                f"{str(source)!r} cannot be loaded, as {', '.join(damaged)} is truncated, or not what its checksum "
                "says: fetch it again with force_download=True, or save the model again."
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with output_loading_info=True
        if pretrained_model_name_or_path is not None:  # None: the weights were given as a state_dict
            model._remember_source(pretrained_model_name_or_path, kwargs)
        return loaded

    def save_pretrained(  # type: ignore[override]  # transformers spells out its keywords; they pass through
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """As in transformers, and the tokenizer and a model card with it.

        With `push_to_hub` the folder is uploaded to `repo_id`, by default the folder's name; see `push_to_hub` for
        the keywords of that. The card of a folder that has one keeps what a person wrote.

        The folder changes when everything is written, or not at all: a full disk (OSError) or the end of the process
        leaves what it held, and weights under other names (other shards, an adapter) go when new full ones come.
        """
        upload = {name: kwargs.pop(name) for name in _UPLOAD_KEYWORDS if name in kwargs}
        folder = Path(save_directory)
        repo_id = repo_id or (folder.name if push_to_hub else None)
        _record_commits(self.config)
        alone = is_main_process and not kwargs.get("distributed_checkpoint")  # else other processes write there too
        with saved_whole(folder) if alone else nullcontext(folder) as place:
            super().save_pretrained(place, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
            if is_main_process:
                if self._hf_peft_config_loaded:
                    self.config.save_pretrained(place)  # transformers leaves it out of an adapter's folder
                self._save_tokenizer(place)
                _write_card(self, place, repo_id)
        if push_to_hub and is_main_process and repo_id:
            _upload(folder, repo_id, **upload)

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but from safetensors alone, and ValueError where the weights do not fit the model.

        transformers cannot read a DoRA's magnitudes (5.23); `peft.PeftModel.from_pretrained(model, folder)` does.
        """
        if peft_model_id is not None and kwargs.get("adapter_state_dict") is None:
            _refuse_pickled_adapter(peft_model_id, kwargs)
        result = super().load_adapter(peft_model_id, *args, **kwargs)
        strange = sorted({*result.missing_keys, *result.unexpected_keys})
        if strange:
            hint = (
                "transformers cannot load a DoRA; use peft.PeftModel.from_pretrained(model, folder)."
                if any("lora_magnitude_vector" in name for name in strange)
                else "load it onto the model that it was trained on (base_model_name_or_path of adapter_config.json)."
            )
            raise ValueError(f"the adapter {str(peft_model_id)!r} does not fit: {strange[0]!r} is on one side; {hint}")
        self._compare_base()
        return result

    def _compare_base(self) -> None:
        """A warning where an adapter names another commit of this repo: transformers takes the newest one."""
        here = getattr(self.config, "_commit_hash", None)
        for adapter in self.peft_config.values() if self._hf_peft_config_loaded else ():
            wanted = getattr(adapter, "revision", None)
            if here and wanted and wanted != here and adapter.base_model_name_or_path == self.name_or_path:
                logger.warning(
                    f"The adapter was trained on commit {wanted} of {self.name_or_path!r}, and this is commit {here}: "
                    f"load the base with revision={wanted!r}, then the adapter with load_adapter."
                )

    def _save_tokenizer(self, folder: Path) -> None:
        if self._tokenizer is None and self._tokenizer_source is None:
            return
        try:
            self.tokenizer.save_pretrained(folder)
        except ValueError as error:
            logger.warning(f"{folder} was saved without a tokenizer: {error}")

    def push_to_hub(  # type: ignore[override]  # transformers' tags and description belong to its own card
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
    ) -> Any:
        """Send the complete repo to the Hub in one commit, with its own card; returns huggingface_hub's `CommitInfo`.

        Args:
            repo_id: `user/name`, created if missing; `private` is for a repo that is created.
            revision: branch to commit to, created if missing; default the main branch.
            token: access token; default the one that is logged in.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id=repo_id, max_shard_size=max_shard_size)
            return _upload(Path(folder), repo_id, commit_message, create_pr, private, revision, token)


def _record_commits(config: PreTrainedConfig) -> None:
    """Let a configuration keep which commit its backbones were loaded from: transformers saves their names alone."""
    for name in config.sub_configs:
        part = getattr(config, name)
        if (commit := getattr(part, "_commit_hash", None)) is not None:
            part.base_commit = commit


def refuse_pickles(keywords: dict[str, Any]) -> None:
    """Let `from_pretrained(**keywords)` read safetensors alone; ValueError where it is told to read others."""
    if keywords.get("use_safetensors") is False:
        raise ValueError("use_safetensors=False would read a pickle, which can run any code: leave the keyword out.")
    keywords["use_safetensors"] = True


def _refuse_pickled_adapter(source: str, keywords: dict[str, Any]) -> None:
    # transformers reads adapter_model.bin where there are no safetensors, whatever use_safetensors says (5.23).
    given = {**keywords, **(keywords.get("adapter_kwargs") or {})}
    given |= getattr(keywords.get("load_config"), "download_kwargs", None) or {}
    hub = {name: given[name] for name in HUB_KEYWORDS if name in given}
    if hub.get("revision") is not None:
        hub["revision"] = str(hub["revision"])  # without the commit of the base's repo that transformers ties to it

    if cached_file(source, ADAPTER_SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **hub) is None:
        raise ValueError(
            f"{source!r} holds no {ADAPTER_SAFE_WEIGHTS_NAME}; another file of weights is a pickle, which can run any "
            "code when it is loaded, and is not read. Ask its owner to save it as safetensors, as peft does by itself."
        )


@contextmanager
def saved_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into; its files come into `folder` when all are written, or not at all.

    Raises ValueError where `folder` is a file, OSError where the disk is full.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file: name a folder to save into.")
    finish_save(folder)
    new, partial = not folder.exists(), folder / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was ended
    partial.mkdir(parents=True)
    try:
        if (folder / "README.md").is_file():  # its text stays
            shutil.copyfile(folder / "README.md", partial / "README.md")
        yield partial
        (partial / _STALE).write_text("\n".join(_other_weights(folder, partial)))
        flush_folder(partial)
        os.rename(partial, folder / _WHOLE)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            if new:
                folder.rmdir()
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            what = f"no space left to save into {str(folder)!r}, which is as it was: free some and save again"
            raise OSError(errno.ENOSPC, what) from error
        raise
    finish_save(folder)


def finish_save(folder: Path) -> None:
    """Put the files of a save that was written as a whole into their places, also if its process ended before."""
    whole = folder / _WHOLE
    if not whole.is_dir():
        return
    for path in sorted(path for path in whole.rglob("*") if path.is_file() and path.name != _STALE):
        target = folder / path.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    stale = whole / _STALE
    for name in stale.read_text().splitlines() if stale.exists() else ():
        (folder / name).unlink(missing_ok=True)
    flush_folder(folder, files=False)
    shutil.rmtree(whole)


def _other_weights(folder: Path, new: Path) -> list[str]:
    """Names of weights in `folder`, other shards or an adapter, that would be loaded for the full ones in `new`."""
    names = {path.name for path in new.iterdir()}
    if not names & {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME}:
        return []
    adapter = (ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME)  # transformers would load its base and it
    patterns = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, "model-?????-of-?????.safetensors", *adapter)
    return sorted({path.name for pattern in patterns for path in folder.glob(pattern)} - names)


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


def _damaged_files(source: str | os.PathLike, keywords: dict[str, Any]) -> list[str]:
    """Names of weights, in a folder or the Hub's cache, that cannot be read or are not what their checksum says."""
    config = _cached_config(source, keywords)
    return (
        [path.name for path in sorted(Path(config).parent.glob("*.safetensors")) if _is_damaged(path)]
        if config
        else []
    )


def _cached_config(source: str | os.PathLike, keywords: dict[str, Any]) -> str | None:
    """The file in a folder or in the Hub's cache, without asking the Hub; None where there is none."""
    known = {**keywords, "local_files_only": True, "force_download": False}
    try:
        return cached_file(str(source), CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **known)
    except (OSError, ValueError):  # not in the cache, or no name of a repo
        return None


def _is_damaged(path: Path) -> bool:
    content = path.resolve()
    if len(content.name) == 64 and content.parent.name == "blobs":  # the Hub's cache: the name is the checksum
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != content.name
    try:
        with safe_open(path, "pt"):
            return False
    except (SafetensorError, OSError):
        return True


def commit_of(source: str | os.PathLike, keywords: dict[str, Any]) -> str | None:
    """The commit that a repo was just loaded at, by the Hub's cache; None for a folder. (transformers forgets it.)"""
    hub = {name: keywords[name] for name in HUB_KEYWORDS if name in keywords}
    file = None if os.path.isdir(source) else _cached_config(source, hub)
    found = re.search(r"/snapshots/([0-9a-f]{40})/", Path(file).as_posix()) if file else None
    return found[1] if found else None


def _write_card(model: PreTrainedModel, folder: Path, repo_id: str | None) -> None:
    try:
        from hub_cards import write_card
    except ImportError:  # the model was loaded as remote code, without Lookback: the folder keeps the card it has
        return
    write_card(model, folder, **({"repo_id": repo_id} if repo_id else {}))


def _upload(
    folder: Path,
    repo_id: str,
    commit_message: str | None = None,
    create_pr: bool = False,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Any:
    commit: dict[str, Any] = {
        "commit_message": commit_message or "Upload model",
        "create_pr": create_pr,
        "revision": revision,
    }
    try:
        from hub_cards import push
    except ImportError:  # as above; with Lookback a card that a person wrote on the Hub stays
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # One commit: upload_folder may make several, and the repo would be half there in between.
        files = [path for path in folder.rglob("*") if path.suffix in _SENT and not path.match("checkpoint-*/*")]
        operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in sorted(files)]
        return api.create_commit(repo_id, operations, **commit)
    return push(folder, repo_id, private=private, token=token, **commit)
