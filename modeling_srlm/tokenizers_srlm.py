"""The two tokenizers of a self-retrieval LM: its own, and that of the retriever nested in its repo."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from .configuration_srlm import SelfRetrievalConfig
from .placement_srlm import own_class
from .positions_srlm import hide_positions
from .repository_srlm import CompleteRepository
from .retriever_srlm import NestedRetriever
from .vocabulary_srlm import load_tokenizer

RETRIEVER_TOKENIZER_FOLDER = "retriever_tokenizer"
# `transformers serve` (5.23) loads repos with code of their own by the second alone.
AUTO_CLASSES = ("AutoModelForCausalLM", "AutoModelForDecision")


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of texts for the language model, and no others.

    Special tokens that the tokenizer would put around a text are left out: an EOS behind it ends what is to go on, and
    takes the place of a token that is scored; a BOS before it is the matter of `add_bos`.
    """
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def behind_bos(config: SelfRetrievalConfig, ids: list[int]) -> list[int]:
    """An input of the language model as `add_bos` has it; one that begins with BOS gets no other."""
    bos = config.bos_id if config.add_bos else None
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


class TwoTokenizers(CompleteRepository):
    """A repo with the LM's tokenizer, and the nested retriever's in a folder of its own.

    A retriever that is only an object with `encode` is not saved; give it anew to `model.retriever`.
    """

    retriever: Any  # a NestedRetriever, any object with encode(), or None

    @property
    def retriever_tokenizer(self) -> PreTrainedTokenizerBase:
        """The nested retriever's own tokenizer; ValueError if there is none."""
        return self.retriever.tokenizer

    def _remember_source(self, source: str | os.PathLike, keywords: dict[str, Any]) -> None:
        super()._remember_source(source, keywords)
        if __name__.startswith("transformers_modules"):  # in a tool that knows the Hub, not Lookback
            hide_positions(self.config)
        if isinstance(self.retriever, NestedRetriever) and self._tokenizer_source is not None:
            self.retriever.load_tokenizer = partial(
                load_tokenizer, *self._tokenizer_source, RETRIEVER_TOKENIZER_FOLDER
            )

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save weights, config, code, tokenizers and model card: a repo that loads with `trust_remote_code=True`."""
        self.config.auto_map = {name: f"modeling_srlm.{own_class(self).__name__}" for name in AUTO_CLASSES}
        super().save_pretrained(save_directory, *args, **kwargs)

    def _save_beside(self, folder: Path) -> None:
        super()._save_beside(folder)
        if isinstance(self.retriever, NestedRetriever):
            self.retriever_tokenizer.save_pretrained(folder / RETRIEVER_TOKENIZER_FOLDER)
