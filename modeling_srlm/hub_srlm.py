"""A self-retrieval LM's repo: what is saved beside the weights, and how it is found again."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .retriever_srlm import NestedRetriever

RETRIEVER_TOKENIZER_FOLDER = "retriever_tokenizer"
# What a loader of a repo takes besides the model's own settings, and what its tokenizers must be given as well.
HUB_KEYWORDS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies", "subfolder")


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
        model._hub_kwargs = {key: kwargs[key] for key in HUB_KEYWORDS if key in kwargs}
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

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Writes the whole repo: weights of LM and nested retriever, config, code, both tokenizers, card.

        A retriever that is only an object with `encode` is not saved; give it anew to `model.retriever`.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        if self._tokenizer is not None or self.config._name_or_path:
            self.tokenizer.save_pretrained(save_directory)
        if isinstance(self.retriever, NestedRetriever):
            self.retriever_tokenizer.save_pretrained(Path(save_directory) / RETRIEVER_TOKENIZER_FOLDER)
        try:
            from hub_cards import write_card
        except ImportError:  # remote code on a machine without Lookback: the repo keeps the card that it has
            return
        write_card(self, save_directory)

    @property
    def retriever_tokenizer(self) -> PreTrainedTokenizerBase:
        """The nested retriever's own tokenizer."""
        if self.retriever.tokenizer is None:
            self.retriever.tokenizer = self._load_tokenizer(RETRIEVER_TOKENIZER_FOLDER)
        return self.retriever.tokenizer
