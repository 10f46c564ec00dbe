"""A model that keeps its tokenizer, and whose folder is a complete repo: weights, code, tokenizer, model card."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .backbone_biencoder import HUB_KEYWORDS

logger = logging.get_logger(__name__)


class CompleteRepository(PreTrainedModel):
    """Base class of a model that saves, pushes and loads with its tokenizer."""

    _tokenizer: PreTrainedTokenizerBase | None = None
    _tokenizer_source: tuple[str, dict[str, Any]] | None = None  # (repo id or folder, keywords for loading from it)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded when first needed from where the model came from; ValueError if there is none."""
        if self._tokenizer is None:
            if self._tokenizer_source is None:
                raise ValueError("the model has no tokenizer: pass from_backbone(..., tokenizer=...) or set one.")
            source, keywords = self._tokenizer_source
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(source, **keywords)
            except (OSError, ValueError) as error:
                raise ValueError(f"no tokenizer could be loaded from {source!r}: set model.tokenizer.") from error
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase | str | os.PathLike) -> None:
        if isinstance(tokenizer, str | os.PathLike):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise TypeError(f"tokenizer must be a transformers tokenizer or its path, not {type(tokenizer).__name__}.")
        self._tokenizer = tokenizer

    def _remember_source(self, source: str | os.PathLike, keywords: dict[str, Any]) -> None:
        # Code in the repo runs only where the caller said so; without a word, transformers would ask at the terminal.
        trust = bool(keywords.get("trust_remote_code"))
        kept = {name: keywords[name] for name in HUB_KEYWORDS if name in keywords}
        self._tokenizer_source = (str(source), {**kept, "trust_remote_code": trust})

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers; the tokenizer comes later from the same repo, revision and cache."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with output_loading_info=True
        if pretrained_model_name_or_path is not None:  # None: the weights were given as a state_dict
            model._remember_source(pretrained_model_name_or_path, kwargs)
        return loaded

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in transformers, and the tokenizer and a model card with it; with `push_to_hub` all of it is uploaded."""
        hub = {
            name: kwargs.pop(name) for name in ("repo_id", "private", "commit_message", "create_pr") & kwargs.keys()
        }
        super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
        if not is_main_process:
            return
        self._save_tokenizer(save_directory)
        try:
            from hub_cards import write_card
        except ImportError:  # the model was loaded as remote code, without Lookback
            pass
        else:
            write_card(self, Path(save_directory))
        if push_to_hub:
            _upload(Path(save_directory), token=kwargs.get("token"), **hub)

    def _save_tokenizer(self, folder: str | os.PathLike) -> None:
        if self._tokenizer is None and self._tokenizer_source is None:
            return
        try:
            self.tokenizer.save_pretrained(folder)
        except ValueError as error:
            logger.warning(f"{folder} was saved without a tokenizer: {error}")

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> None:  # type: ignore[override]
        """Save into a temporary folder and upload it. Keywords: private, token, commit_message, create_pr, ...

        transformers' own method would put a generic model card over ours.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, push_to_hub=True, repo_id=repo_id, **kwargs)


def _upload(
    folder: Path,
    repo_id: str | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
) -> None:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id or folder.name, private=private, exist_ok=True).repo_id
    api.upload_folder(folder_path=folder, repo_id=repo_id, commit_message=commit_message, create_pr=create_pr)
