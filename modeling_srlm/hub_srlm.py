"""A self-retrieval LM's repo: what is saved beside the weights, and how it is found again."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from .retriever_srlm import NestedRetriever

RETRIEVER_TOKENIZER_FOLDER = "retriever_tokenizer"
# What a loader of a repo takes besides the model's own settings, and what its tokenizers must be given as well.
HUB_KEYWORDS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies", "subfolder")
_PUSH_KEYWORDS = {"repo_id", "private", "commit_message", "create_pr"}
logger = logging.get_logger(__name__)


class RepoMixin:
    """Tokenizers, card and code of the repo; mixed into [`SelfRetrievalLM`]."""

    config: Any
    retriever: Any
    _tokenizer: PreTrainedTokenizerBase | None
    _hub_kwargs: dict[str, Any]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; the tokenizers are loaded from the same repo and revision when first needed."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # Code in the repo runs only where the caller said so; without a word, transformers would ask at the terminal.
        trust = {"trust_remote_code": bool(kwargs.get("trust_remote_code"))}
        model._hub_kwargs = {**{key: kwargs[key] for key in HUB_KEYWORDS if key in kwargs}, **trust}
        return loaded

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The LM's tokenizer; loaded from the repo that the model came from where none was given."""
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def _load_tokenizer(self, folder: str = "") -> PreTrainedTokenizerBase:
        source = self.config._name_or_path
        if not source:
            raise ValueError("this model has no tokenizer; give one: from_components(model, tokenizer, ...).")
        try:
            return AutoTokenizer.from_pretrained(
                source, **{**self._hub_kwargs, **({"subfolder": folder} if folder else {})}
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"no tokenizer in {source!r} {folder}; set model.tokenizer to the LM's own.") from error

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in transformers, and the tokenizers and a model card with it; with `push_to_hub` all of it is uploaded.

        A retriever that is only an object with `encode` is not saved; give it anew to `model.retriever`.
        """
        hub = {name: kwargs.pop(name) for name in _PUSH_KEYWORDS & kwargs.keys()}
        super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
        if not is_main_process:
            return
        self._save_tokenizers(Path(save_directory))
        try:
            from hub_cards import write_card
        except ImportError:  # remote code on a machine without Lookback: the repo keeps the card that it has
            pass
        else:
            write_card(self, save_directory)
        if push_to_hub:
            _upload(Path(save_directory), token=kwargs.get("token"), **hub)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> None:
        """Saves into a temporary folder and uploads it. Keywords: private, token, commit_message, create_pr, ...

        transformers' own method would put a generic model card over ours.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, push_to_hub=True, repo_id=repo_id, **kwargs)

    def _save_tokenizers(self, folder: Path) -> None:
        try:
            self.tokenizer.save_pretrained(folder)
        except ValueError as error:
            logger.warning(f"{folder} was saved without the LM's tokenizer: {error}")
        if isinstance(self.retriever, NestedRetriever):
            self.retriever_tokenizer.save_pretrained(folder / RETRIEVER_TOKENIZER_FOLDER)

    @property
    def retriever_tokenizer(self) -> PreTrainedTokenizerBase:
        """The nested retriever's own tokenizer."""
        if self.retriever.tokenizer is None:
            self.retriever.tokenizer = self._load_tokenizer(RETRIEVER_TOKENIZER_FOLDER)
        return self.retriever.tokenizer


def _upload(folder: Path, repo_id: str | None = None, token: str | bool | None = None, **kwargs: Any) -> None:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id or folder.name, private=kwargs.pop("private", None), exist_ok=True).repo_id
    api.upload_folder(folder_path=folder, repo_id=repo_id, **kwargs)
