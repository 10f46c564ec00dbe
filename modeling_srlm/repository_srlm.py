# Copied from hub_cards/travelling/repository.py by "make copies": edit that one.
"""A model that keeps its tokenizer, and whose folder is a complete repo: weights, code, tokenizer, model card."""

import os
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .adapting_srlm import AdaptableModel, refuse_wrapped
from .checks_srlm import check_keywords, check_positive_int
from .fitting_srlm import check_loaded, refuse_other_kind
from .halves_srlm import damage, refuse_halves
from .loading_srlm import (
    commit_of,
    hub_keywords,
    refuse_adapter_alone,
    refuse_foreign_shards,
    refuse_pickles,
    tokenizer_keywords,
)
from .placement_srlm import as_own_class
from .saving_srlm import name_folders_whole, read_whole, saved_whole
from .vocabulary_srlm import check_fit, load_tokenizer

# What is sent without Lookback: files of the model, and no pickle that a training left beside them.
_SENT = (".safetensors", ".json", ".py", ".jinja", ".txt", ".model", ".md")
_SAVE_KEYWORDS = (
    "distributed_checkpoint", "max_shard_size", "safe_serialization", "save_function", "save_original_format",
    "save_peft_format", "variant",
)  # fmt: skip
_UPLOAD_KEYWORDS = ("commit_message", "create_pr", "private", "revision", "token")
logger = logging.get_logger(__name__)


class CompleteRepository(AdaptableModel):
    """Base class of a model that saves, pushes and loads with its tokenizer."""

    _begins_anew: tuple[str, ...] = ()  # beginnings of the names of weights that start as the configuration says
    _tokenizer: PreTrainedTokenizerBase | None = None
    _tokenizer_source: tuple[str, dict[str, Any]] | None = None  # (repo id or folder, keywords for loading from it)

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        name_folders_whole(config)
        super().__init__(config, *args, **kwargs)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded when first needed from where the model came from.

        Raises ValueError if there is none, and for one that does not fit the model; so does setting it.
        """
        if self._tokenizer is None:
            self.tokenizer = self._load_tokenizer()
        return cast(PreTrainedTokenizerBase, self._tokenizer)

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise TypeError(
                f"tokenizer must be a transformers tokenizer, not {type(tokenizer).__name__}: "
                "AutoTokenizer.from_pretrained(...) gives one."
            )
        self._check_tokenizer(tokenizer)
        self._tokenizer = tokenizer

    def _check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        check_fit(tokenizer, self.get_input_embeddings())

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer_source is None:
            raise ValueError("the model has no tokenizer: build it with tokenizer=..., or set model.tokenizer.")
        return load_tokenizer(*self._tokenizer_source)

    def _remember_source(self, source: str | os.PathLike, keywords: dict[str, Any]) -> None:
        kept = tokenizer_keywords(keywords)
        commit = commit_of(source, kept)
        if commit:  # the branch may move on before the tokenizer is needed
            kept["revision"] = commit
        if self.name_or_path:
            self.config._commit_hash = commit
            self._compare_base()
        self._tokenizer_source = (os.path.abspath(source) if os.path.isdir(source) else str(source), kept)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers, but from safetensors alone; the tokenizer comes later from the same repo and revision.

        Raises OSError with the file's name where one is missing, and where weights are truncated or not what their
        checksum says; ValueError for another kind of model, and for weights that are not there.
        """
        source = pretrained_model_name_or_path
        place = None if source is None else Path(source, kwargs.get("subfolder") or "")
        if place is None or not place.is_dir():
            return cls._read(source, *args, **kwargs)
        return read_whole(place, lambda: cls._read(source, *args, **kwargs))

    @classmethod
    def _read(cls, source: str | os.PathLike | None, *args: Any, **kwargs: Any) -> Any:
        refuse_pickles(kwargs)
        if source is not None and os.path.isdir(source):
            refuse_foreign_shards(source, kwargs)
        if source is not None:
            refuse_halves(source, kwargs)
            refuse_other_kind(cls.config_class, source, kwargs.get("config"), kwargs)
        keywords = hub_keywords(kwargs)  # transformers takes them out
        asked = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        except Exception as error:
            if source is not None and (damaged := damage(source, kwargs, error)) is not None:
                raise damaged from error
            refuse_adapter_alone(source, keywords, error)
            raise
        if source is not None:  # None: the weights were given as a state_dict
            if not asked:
                missing = [name for name in info["missing_keys"] if not name.startswith(cls._begins_anew)]
                check_loaded(model, source, missing)
            model._remember_source(source, kwargs)
        return (model, info) if asked else model

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
        the keywords of that. A card that is there keeps what a person wrote. Of several processes the first writes.

        The folder changes when everything is written, or not at all: a full disk (OSError) or the end of the process
        leaves what it held, and weights under other names (other shards, an adapter) go when new full ones come.

        Raises TypeError or ValueError for keywords that do not exist, and for an adapter that would be left out.
        """
        _check_saving(save_directory, kwargs)
        refuse_wrapped(self)
        upload = {name: kwargs.pop(name) for name in _UPLOAD_KEYWORDS if name in kwargs}
        folder = Path(save_directory)
        repo_id = repo_id or (folder.resolve().name if push_to_hub else None)
        _record_commits(self.config)
        writes = self.should_save_on_this_rank(is_main_process)
        shared = kwargs.get("distributed_checkpoint")  # each process writes its part of the weights there
        with as_own_class(self), nullcontext(folder) if shared else saved_whole(folder, writes) as place:
            super().save_pretrained(place, is_main_process=writes, state_dict=state_dict, **kwargs)
            if writes:
                if self._hf_peft_config_loaded:
                    self.config.save_pretrained(place)  # transformers leaves it out of an adapter's folder
                self._save_beside(place)
                _write_card(self, place, repo_id)
        # The other processes of a model that is shared out go on when the folder is whole, and not before.
        self.barrier_after_gathered_checkpoint_save(getattr(self.config, "distributed_config", None))
        if push_to_hub and writes and repo_id:
            _upload(folder, repo_id, **upload)

    def _save_beside(self, folder: Path) -> None:
        """Write what a repo holds beside the model: the tokenizer."""
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
        """Send the complete repo in one commit, with its own card; returns the `CommitInfo`, in other processes None.

        Args:
            repo_id: `user/name`, created if missing; `private` is for a repo that is created.
            revision: branch to commit to, created if missing; default the main branch.
            token: access token; default the one that is logged in.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id=repo_id, max_shard_size=max_shard_size)
            sending = (Path(folder), repo_id, commit_message, create_pr, private, revision, token)
            return _upload(*sending) if self.should_save_on_this_rank(True) else None


def _check_saving(folder: str | os.PathLike, keywords: dict[str, Any]) -> None:
    if not os.fspath(folder):
        raise ValueError("save_directory='' names no folder: '.' is the one that you are in.")
    check_keywords(keywords, (*_SAVE_KEYWORDS, *_UPLOAD_KEYWORDS), "save_pretrained")
    if not keywords.get("safe_serialization", True):
        raise ValueError("safe_serialization=False would write a pickle: leave it out.")
    if isinstance(size := keywords.get("max_shard_size"), int):
        check_positive_int("max_shard_size", size, "give bytes, or a size such as '5GB'")


def _record_commits(config: PreTrainedConfig) -> None:
    """Let a configuration keep which commit its backbones were loaded from: transformers saves their names alone."""
    for name in config.sub_configs:
        part = getattr(config, name)
        if (commit := getattr(part, "_commit_hash", None)) is not None:
            part.base_commit = commit


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
    message = commit_message or "Upload model"
    commit: dict[str, Any] = {"commit_message": message, "create_pr": create_pr, "revision": revision}
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
