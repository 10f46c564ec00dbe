"""What a pass goes by: where a document is cut, what stands in an input, and how chunks are embedded."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from .assembly_srlm import InputLayout
from .chunking_srlm import (
    Block,
    Document,
    block_size,
    chunks_without_keys,
    cut_blocks,
    cut_generated,
    half_window,
    make_block,
)
from .configuration_srlm import RETRIEVER_METHODS, SelfRetrievalConfig
from .encoding_srlm import Encode, ignores_role, retriever_encode, state_encode
from .moving_srlm import StateGroup
from .positions_srlm import check_sight
from .proof_srlm import proven_states
from .retriever_srlm import NestedRetriever

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM


@dataclass(frozen=True, eq=False)
class Plan:
    """What a pass over documents goes by: taken from a model once, before the first input is made.

    Attributes:
        layout: what stands where in an input.
        encode: embeds chunks for the methods that compare embeddings; None for the others.
        one_role: whether a chunk's embedding is the same as query and as key.
        states: with `reuse_states`, the layers' keys and values, and how keys are moved.
        settles: whether training takes the gradient of a block before the next one begins; see `SelfRetrievalLM`.
    """

    config: SelfRetrievalConfig
    language_model: PreTrainedModel
    layout: InputLayout
    encode: Encode | None = None
    one_role: bool = True
    states: list[StateGroup] | None = None
    settles: bool = True

    @classmethod
    def of(cls, model: "SelfRetrievalLM") -> "Plan":
        """The plan of a model as it stands; ValueError where settings or components do not fit each other."""
        check_components(model)
        layout = _input_layout(model, replaces(model.config))
        parts = model.config, model.language_model, layout, *chunk_encoder(model)
        return cls(*parts, states=proven_states(model), settles=model.settles_blocks)

    @classmethod
    def of_candidates(cls, model: "SelfRetrievalLM") -> "Plan":
        """The plan for keys that the caller names, whatever the model would retrieve, and with what.

        With `reuse_states` a text is read as always, with what it retrieves.
        """
        layout = _input_layout(model, model.config.integrate_method == "replace")
        if model.config.reuse_states:
            check_sight(model.config)
            return replace(cls.of(model), layout=layout)
        model.config.check()
        return cls(model.config, model.language_model, layout)

    @property
    def room(self) -> int:
        """Most labels that one window can score."""
        config = self.config
        return config.max_target_size if self.layout.replace else config.context_window_size - config.chunk_size

    @property
    def target_size(self) -> int:
        """Tokens that one window start serves where it is open how many there will be."""
        config = self.config
        return config.target_size or half_window(config.context_window_size, config.chunk_size, self.room)

    @property
    def window_chunks(self) -> int:
        return self.config.context_window_size // self.config.chunk_size

    @property
    def chunks_without_keys(self) -> int:
        """Chunks at the end of a cut document that are no keys."""
        return chunks_without_keys(self.window_chunks, self.layout.replace)

    def cut(self, document: Document) -> list[Block]:
        """The blocks of a document, in order of position."""
        window = self.config.context_window_size
        if document.prompt_chunks is not None:
            return cut_generated(document, window, self.target_size, self.layout.replace)
        size = block_size(document, window, self.config.target_size, self.room)
        return cut_blocks(document, window, size, self.layout.replace)

    def block(self, first_target: int, end: int) -> Block:
        """The block of the target chunks first_target..end-1."""
        return make_block(first_target, end, self.window_chunks, self.layout.replace)

    def num_keys(self, target: int, end: int) -> int:
        """Keys of a target chunk in a document that is cut, and scored, up to chunk `end`."""
        return (self.stream_block(target) if self.config.reuse_states else self.block(target, end)).num_keys

    def stream_block(self, target: int) -> Block:
        """With `reuse_states`, the block of one target chunk: its window is that of the chunks before it."""
        return Block(target, target + 1, max(target - self.chunks_without_keys, 0))

    def asks(self, chunk: int) -> bool:
        """With `reuse_states`, whether a prompt that ends in this chunk asks for what the chunk retrieves."""
        return self.has_queries and self.stream_block(chunk).num_keys > 0

    @property
    def has_queries(self) -> bool:
        """Whether what is retrieved depends on what asks for it."""
        return self.config.retrieval_method not in ("no", "recent", "random")


def replaces(config: SelfRetrievalConfig) -> bool:
    """Whether retrieved text takes the place of the window's oldest tokens."""
    return config.integrate_method == "replace" and config.retrieval_method != "no"


def check_components(model: "SelfRetrievalLM") -> None:
    """ValueError for settings that do not fit each other, and where the method lacks a retriever or a tokenizer."""
    model.config.check()
    method = model.config.retrieval_method
    if method not in RETRIEVER_METHODS:
        return
    if model.retriever is None:
        raise ValueError(
            f"retrieval_method is {method!r} and there is no retriever: give from_components(..., retriever=...), "
            "set model.retriever, or choose another method, such as 'bm25'."
        )
    if isinstance(model.retriever, NestedRetriever):
        _ = model.retriever.tokenizer  # loaded on first need; ValueError if there is none
    _ = model.tokenizer  # the same for the text of chunks


def chunk_encoder(model: "SelfRetrievalLM") -> tuple[Encode | None, bool]:
    """How chunks are embedded, if the method compares embeddings, and whether query and key are embedded alike."""
    config, one_role = model.config, True
    encode: Encode | None = None
    if config.retrieval_method in RETRIEVER_METHODS:
        encode = retriever_encode(model.retriever, model.tokenizer, config.instruction)
        one_role = ignores_role(model.retriever, config.instruction)
        encode = _kept(model, encode)
    elif config.retrieval_method == "self" and not config.reuse_states:  # there the states are at hand
        encode = self_encoder(model)
    return encode, one_role


def self_encoder(model: "SelfRetrievalLM") -> Encode:
    """How the language model embeds texts by its own states, each read by itself."""
    config = model.config
    # As many tokens at once as in a scoring pass.
    batch_size = config.chunk_batch_size * (config.context_window_size // config.chunk_size)
    return _kept(model, state_encode(model.language_model, batch_size, _bos(model)))


def _kept(model: "SelfRetrievalLM", encode: Encode) -> Encode:
    """In training with what is kept from step to step, where that is asked for."""
    return model.embedding_cache.wrap(encode) if model.embedding_cache is not None and model.training else encode


def _input_layout(model: "SelfRetrievalLM", replace: bool) -> InputLayout:
    config = model.config
    separator = None if config.add_sep is None else torch.tensor(config.add_sep, device=model.device)
    return InputLayout(config.context_window_size, replace, separator, _bos(model))


def _bos(model: "SelfRetrievalLM") -> torch.Tensor | None:
    return torch.tensor([model.config.bos_id], device=model.device) if model.config.add_bos else None
