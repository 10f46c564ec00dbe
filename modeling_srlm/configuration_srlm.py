"""Configuration of the self-retrieval language model."""

import dataclasses
from inspect import get_annotations
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from .checks_srlm import (
    check_choice,
    check_fields,
    check_keywords,
    check_number,
    check_positive_int,
    check_token_ids,
)
from .format_srlm import check_format
from .limits_srlm import check_reuse
from .loading_srlm import CONFIG_KEYWORDS, part_config
from .positions_srlm import check_positions
from .retriever_srlm import SETTING_NAMES, RetrieverSettings
from .saving_srlm import FolderlessConfig

RETRIEVAL_METHODS = ("no", "recent", "random", "bm25", "dense", "self", "hybrid", "oracle")
RETRIEVER_METHODS = ("dense", "hybrid")  # they need a retriever
ORACLE_SEARCHES = ("single", "greedy")
ORDER_METHODS = ("sequential", "relevance")
INTEGRATE_METHODS = ("concat", "replace")
MOST = 2**31 - 1  # of tokens, keys and inputs
MOST_FUSION = 1_000_000  # with more, ranks beside each other would give one score in float32
LONGEST_TEXT = 2**17  # tokens; a tool that takes the logits of all of them has 4 bytes for each word of the vocabulary
MOST_SEED = 2**62  # the number of a target is added to it, and torch takes 64 bits


class SelfRetrievalConfig(FolderlessConfig, PreTrainedConfig):
    """Settings of [`SelfRetrievalLM`]. Lengths are in tokens; `chunk_size` divides all of them.

    Args:
        text_config: the language model's own config, of any causal LM that transformers knows.
        retriever_config: the config of the nested retriever's backbone; None without a nested retriever.
        retriever_settings: how the nested retriever makes an embedding, the settings of a bi-encoder's config that
            `retriever_srlm.RetrieverSettings` lists, the prompts of one task among them.
        context_window_size: W, the window that ends with the targets.
        chunk_size: C, the unit of retrieval.
        key_num: k, chunks retrieved for a target; each brings the chunk after it as well, 2C tokens in all.
        chunk_batch_size: inputs that go through the model at once. It changes speed and memory, not the result.
        target_size: labels scored against one window; None takes the labelled span where it fits the window,
            otherwise half of the window.
        add_key_continuation: a key's text is its chunk and the chunk after it.
        retrieval_method: "no"; "recent"; "random"; "bm25"; "dense" (the retriever); "self" (mean hidden states of the
            language model itself); "hybrid" (dense and bm25, fused by reciprocal rank); "oracle" (the keys under which
            the target is most likely).
        oracle_search: "single" (the k keys that help most one by one) or "greedy" (each next key beside those chosen).
        order_method: "sequential" (as in the document) or "relevance" (the most relevant next to the window).
        integrate_method: "concat" (before the window) or "replace" (in place of the window's oldest tokens).
        instruction: {"query": prefix, "key": prefix} for the texts that the retriever encodes.
        add_sep: token ids that overwrite the last tokens of each retrieved value.
        add_bos: the backbone's BOS token stands before every input, for backbones trained so (Llama, Gemma).
        bm25_k1, bm25_b: BM25's saturation and length normalisation.
        fusion_constant: of `hybrid`: a key's score is the sum of 1 / (fusion_constant + rank).
        seed: of the `random` method.
        reuse_states: every text goes through the model once; what it looks back at are the keys and values that were
            computed then. A chunk then costs its own C tokens, whatever k and W are.
        num_sink_tokens: with `reuse_states`: first tokens of a text that stay before the window when it has moved on.
        store_place: where states are kept: "device" (the model's), "cpu", or "disk" (a memory-mapped file without a
            name in the folder for temporary files).
        store_dtype: "float32", "bfloat16" or "int8"; None keeps the states' own.
        store_limit: most tokens of each text whose states are kept, or a string such as "2GB" for bytes; those that
            were not looked back at for longest are computed again when they are needed. None: no limit.

    Raises ValueError for an unknown keyword, an unknown method, or sizes that do not fit each other or the backbone.
    """

    model_type = "lookback_srlm"
    sub_configs: ClassVar = {"text_config": AutoConfig, "retriever_config": AutoConfig}

    text_config: dict | PreTrainedConfig | None = None
    retriever_config: dict | PreTrainedConfig | None = None
    retriever_settings: dict[str, Any] | None = None
    context_window_size: int = 2048
    chunk_size: int = 64
    key_num: int = 1
    chunk_batch_size: int = 2
    target_size: int | None = None
    add_key_continuation: bool = False
    retrieval_method: str = "dense"
    order_method: str = "sequential"
    integrate_method: str = "concat"
    instruction: dict[str, str] | None = None
    add_sep: list[int] | None = None
    add_bos: bool = False
    oracle_search: str = "single"
    fusion_constant: int = 60
    bm25_k1: float = 1.5
    bm25_b: float = 0.75
    seed: int = 42
    reuse_states: bool = False
    num_sink_tokens: int = 4
    store_place: str = "cpu"
    store_dtype: str | None = None
    store_limit: int | str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs["lookback_format"] = check_format(kwargs.get("lookback_format"))
        names = [field.name for field in dataclasses.fields(self)]
        check_keywords(kwargs, [*names, *CONFIG_KEYWORDS], type(self).__name__)
        for name in self.sub_configs:
            setattr(self, name, part_config(name, getattr(self, name)))
        # transformers sets these on the sub-configs too: None would undo what the components were loaded with
        kwargs.setdefault("attn_implementation", {})
        kwargs.setdefault("experts_implementation", {})
        super().__post_init__(**kwargs)
        # peft reads from here whether the head is tied, and not every backbone's configuration says so.
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; settings given beside a saved configuration are checked like those of a new one."""
        own = get_annotations(SelfRetrievalConfig).keys() - cls.sub_configs.keys()
        given = {name: kwargs.pop(name) for name in own if name in kwargs}
        return super().from_dict({**config_dict, **given}, **kwargs)

    def check(self) -> None:
        """Raises TypeError or ValueError where a value, or two together, make no sense. Call it after changing one."""
        check_fields(self, SelfRetrievalConfig)
        check_choice("retrieval_method", self.retrieval_method, RETRIEVAL_METHODS)
        check_choice("order_method", self.order_method, ORDER_METHODS)
        check_choice("integrate_method", self.integrate_method, INTEGRATE_METHODS)
        check_choice("oracle_search", self.oracle_search, ORACLE_SEARCHES)
        for name in ("context_window_size", "chunk_size", "key_num", "chunk_batch_size"):
            check_positive_int(name, getattr(self, name), most=MOST)
        check_positive_int("fusion_constant", self.fusion_constant, most=MOST_FUSION)
        if self.target_size is not None:
            check_positive_int("target_size", self.target_size, "give a multiple of chunk_size, or None")
        check_number("bm25_k1", self.bm25_k1, least=0.0)
        check_number("bm25_b", self.bm25_b, least=0.0, most=1.0)
        check_number("seed", self.seed, least=-MOST_SEED, most=MOST_SEED)
        if self.retriever_settings is not None:
            check_keywords(self.retriever_settings, SETTING_NAMES, "retriever_settings")
            RetrieverSettings(**self.retriever_settings)
        for name in ("context_window_size", "target_size"):
            value = getattr(self, name)
            if value is not None and value % self.chunk_size:
                fitting = max(1, round(value / self.chunk_size)) * self.chunk_size
                raise ValueError(
                    f"{name}={value} must divide into chunks of chunk_size={self.chunk_size}: try {fitting}."
                )
        self._check_prefixes()
        check_reuse(self)
        self._check_room()
        check_positions(self)

    @property
    def n_positions(self) -> int:
        """Tokens of a text for tools that cut theirs at a length which they find here: the backbone's is no limit."""
        return LONGEST_TEXT

    @property
    def bos_id(self) -> int | None:
        """The backbone's BOS token."""
        return getattr(self.text_config, "bos_token_id", None)

    @property
    def value_size(self) -> int:
        """Tokens that one retrieved key brings: its chunk and the chunk after it."""
        return 2 * self.chunk_size

    @property
    def stream_positions(self) -> int:
        """With `reuse_states`, the positions that a text of any length needs: sinks, values, window and a chunk."""
        added = 0 if self.integrate_method == "replace" else self.key_num * self.value_size
        return self.num_sink_tokens + int(self.add_bos) + added + self.context_window_size + self.chunk_size

    @property
    def max_target_size(self) -> int:
        """Most labels that one window can score: the query chunk before the first target must stay in it."""
        retrieved = self.key_num * self.value_size if self.integrate_method == "replace" else 0
        return self.context_window_size - self.chunk_size - retrieved

    def _check_prefixes(self) -> None:
        if self.add_sep is not None:
            check_token_ids("add_sep", self.add_sep)
            size = getattr(self.text_config, "vocab_size", None)
            if size is not None and max(self.add_sep, default=0) >= size:
                raise ValueError(
                    f"add_sep holds {max(self.add_sep)}, and the backbone's vocabulary ends at {size - 1}: make the "
                    "ids with its own tokenizer."
                )
            if not 0 < len(self.add_sep) < self.value_size:
                raise ValueError(
                    f"add_sep has {len(self.add_sep)} token ids, and must have at least 1 and fewer than a value's "
                    f"{self.value_size} tokens (two chunks): give such a list, or None."
                )
        if self.instruction is not None and set(self.instruction) != {"query", "key"}:
            raise ValueError(f"instruction={self.instruction!r} must have the keys 'query' and 'key': give both.")
        if self.add_bos and self.bos_id is None:
            raise ValueError("add_bos=True, but the backbone's config has no bos_token_id: set it, or add_bos=False.")

    def _check_room(self) -> None:
        if (self.target_size or self.chunk_size) > self.max_target_size:
            raise ValueError(
                f"target_size={self.target_size or self.chunk_size} does not fit: a window of "
                f"{self.context_window_size} tokens scores at most {self.max_target_size} ({self.integrate_method}, "
                f"key_num {self.key_num}, chunk_size {self.chunk_size}): enlarge context_window_size or lower key_num."
            )


SelfRetrievalConfig.register_for_auto_class()

__all__ = ["SelfRetrievalConfig"]
