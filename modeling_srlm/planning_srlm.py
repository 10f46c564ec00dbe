"""From rows to inputs: a document's blocks, what their targets retrieve, and what the language model then reads."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .assembly_srlm import InputLayout, ModelInput, group_targets
from .chunking_srlm import Block, Document, block_size, cut_blocks
from .configuration_srlm import RETRIEVER_METHODS
from .encoding_srlm import EmbeddingCache, Encode, ignores_role, retriever_encode, state_encode
from .output_srlm import Row
from .retrieval_srlm import arrange
from .retriever_srlm import NestedRetriever
from .selection_srlm import KeySelector


class PlanningMixin:
    """Blocks, selection and inputs of a forward pass; mixed into [`SelfRetrievalLM`]."""

    config: Any
    language_model: Any
    retriever: Any
    retriever_tokenizer: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    embedding_cache: EmbeddingCache | None
    training: bool

    def _check_components(self) -> None:
        self.config.check()
        method = self.config.retrieval_method
        if method not in RETRIEVER_METHODS:
            return
        if self.retriever is None:
            raise ValueError(
                f"retrieval_method is {method!r} and there is no retriever: give from_components(..., retriever=...), "
                "set model.retriever, or choose another method, such as 'bm25'."
            )
        if isinstance(self.retriever, NestedRetriever):
            self.retriever.tokenizer = self.retriever_tokenizer  # loaded on first need; ValueError if there is none
        _ = self.tokenizer  # the same for the text of chunks

    @property
    def _replaces(self) -> bool:
        return self.config.integrate_method == "replace" and self.config.retrieval_method != "no"

    def _layout(self, replace: bool | None = None) -> InputLayout:
        """How inputs are put together; `replace` as configured unless given."""
        config = self.config
        separator = None if config.add_sep is None else torch.tensor(config.add_sep, device=self.device)
        bos = torch.tensor([config.bos_id], device=self.device) if config.add_bos else None
        return InputLayout(config.context_window_size, self._replaces if replace is None else replace, separator, bos)

    def _cut(self, document: Document, replace: bool) -> list[Block]:
        config = self.config
        room = config.max_target_size if replace else config.context_window_size - config.chunk_size
        size = block_size(document, config.context_window_size, config.target_size, room)
        return cut_blocks(document, config.context_window_size, size, replace)

    def _encode(self) -> tuple[Encode | None, bool]:
        """How chunks are embedded, if the method compares embeddings, and whether query and key are embedded alike."""
        config, one_role = self.config, True
        encode: Encode | None = None
        if config.retrieval_method in RETRIEVER_METHODS:
            encode = retriever_encode(self.retriever, self.tokenizer, config.instruction)
            one_role = ignores_role(self.retriever, config.instruction)
        elif config.retrieval_method == "self":
            # As many tokens at once as in a scoring pass.
            batch_size = config.chunk_batch_size * (config.context_window_size // config.chunk_size)
            encode = state_encode(self.language_model, batch_size, self._layout().bos)
        if encode is not None and self.embedding_cache is not None and self.training:
            encode = self.embedding_cache.wrap(encode)
        return encode, one_role

    def _selector(self) -> KeySelector:
        """A selector for one document."""
        return KeySelector(self.config, self._layout(), self.language_model, *self._encode())

    def _inputs(self, rows: list[Row]) -> Iterator[ModelInput]:
        """The inputs of all rows one after the other, each made when it is needed."""
        for number, row in enumerate(rows):
            selector = self._selector()
            selector.prepare(row.document, row.blocks)
            for block in row.blocks:
                indices, scores = selector.select(block, block.targets)
                row.keep_selection(block, indices, scores)
                retrieved = [arrange(keys, self.config.order_method) for keys in indices.tolist()]
                for keys, targets in group_targets(block, retrieved):
                    yield selector.layout.assemble(row.document, block, number, keys, targets)
