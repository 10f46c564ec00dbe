"""How a command's models are loaded: arguments that several commands take."""

from dataclasses import dataclass, field
from typing import Any

from hub_cards.travelling.backbones import base_keywords
from hub_cards.travelling.checks import check_choice
from modeling_srlm.limits_srlm import STORE_DTYPES, STORE_PLACES, parse_bytes

from ..jobs.idle import refuse_idle, refuse_without
from ..jobs.places import check_model_name
from ..models.components import ADD_BOS, OF_KEPT_STATES
from ..models.kind import check_dtype
from ..models.quantization import INT8, torchao_config
from .parsing import check_at_least, given

PRESET_HELP = "How a published model is used, by name (docs/models.md); default: by its repo's id and files. Or none."


@dataclass
class LoadingArguments:
    """How a model is loaded from its repo."""

    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model's repo."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code from the model's repo; ours and transformers' need none."}
    )
    gguf_file: str | None = field(
        default=None, metadata={"help": "Name of a .gguf file in the model's folder or repo, to read instead."}
    )

    def keywords(self) -> dict[str, Any]:
        """What the function gets that loads the model."""
        names = ("revision", "trust_remote_code", *(["gguf_file"] if self.gguf_file else []))
        return {name: getattr(self, name) for name in names}


@dataclass
class ModelArguments(LoadingArguments):
    """The same of a model that may be an adapter, whose base is another repo."""

    base: str | None = field(
        default=None,
        metadata={"help": "Of an adapter: folder or Hub id of the model it was made for. Default: the one it names."},
    )

    base_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of that base's repo. Default: the one that the adapter names."},
    )

    def places(self) -> dict[str, Any]:
        """Where the model lies, and its base."""
        return {**base_keywords(vars(self)), **LoadingArguments.keywords(self)}

    def keywords(self) -> dict[str, Any]:
        """What the function gets that loads the model."""
        return self.places()


@dataclass
class EmbedderArguments(ModelArguments):
    """A bi-encoder, for the commands that embed with one: keywords of `load_biencoder`."""

    pooling: str | None = field(default=None, metadata={"help": "For a plain backbone: last_token, cls or mean."})
    preset: str | None = field(default=None, metadata={"help": PRESET_HELP})

    def keywords(self) -> dict[str, Any]:
        """What the function gets that loads the model."""
        return {"pooling": self.pooling, "preset": self.preset, **super().keywords()}


@dataclass
class DtypeArguments:
    """The number type that weights are loaded in, those of a retriever too."""

    dtype: str | None = field(
        default=None,
        metadata={"help": "Type of the weights: float32, bfloat16 or float16. Default: as they were saved."},
    )

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    def keywords(self) -> dict[str, Any]:
        """What the function gets that loads the model."""
        return {} if self.dtype is None else {"dtype": self.dtype}


@dataclass
class WeightsArguments(DtypeArguments):
    """What the weights become that embed: keywords of `load_biencoder`, beside those of `EmbedderArguments`."""

    quantization: str | None = field(
        default=None,
        metadata={
            "help": "Weights in int8, by torchao: int8_weight_only, or int8_dynamic_activation_int8_weight, which "
            "computes in int8, too."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantization is not None:
            check_choice("--quantization", self.quantization, INT8)
            torchao_config(self.quantization)  # says what is not installed

    def keywords(self) -> dict[str, Any]:
        """What the function gets that loads the model."""
        quantized = {} if self.quantization is None else {"quantization_config": torchao_config(self.quantization)}
        return {**super().keywords(), **quantized}


@dataclass
class RetrieverArguments(ModelArguments):
    """A language model that looks back, as it is trained. What is not given is that of the model's repo."""

    retriever: str | None = field(default=None, metadata={"help": "Hub id or folder of a bi-encoder, for 'dense'."})
    retriever_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the retriever's repo."}
    )
    retriever_preset: str | None = field(default=None, metadata={"help": PRESET_HELP})
    retriever_base: str | None = field(
        default=None, metadata={"help": "Of a retriever that is an adapter: what --base is of the model."}
    )
    context_window_size: int | None = field(default=None, metadata={"help": "Tokens of the window."})
    chunk_size: int | None = field(default=None, metadata={"help": "Tokens of a chunk, the unit of retrieval."})
    key_num: int | None = field(default=None, metadata={"help": "Chunks retrieved for each target chunk."})
    add_bos: bool | None = field(default=None, metadata=ADD_BOS)

    def __post_init__(self) -> None:
        check_model_name("--retriever", self.retriever)
        if self.retriever is None:
            refuse_without(self, "retriever", ("retriever_revision", "retriever_preset", "retriever_base"))
        check_at_least(self, 1, "context_window_size", "chunk_size", "key_num")
        window, chunk = self.context_window_size, self.chunk_size
        if window is not None and chunk is not None and window % chunk:
            raise ValueError(f"--context_window_size={window} must divide into chunks of --chunk_size={chunk}.")


@dataclass
class KeptStatesArguments:
    """Whether what was read is kept, and where. What is not given is that of the model's repo."""

    reuse_states: bool | None = field(
        default=None,
        metadata={
            "help": "Read a text once, and look back at the keys and values kept of it. false: recompute them.",
            "nargs": "?",
            "const": True,
        },
    )
    num_sink_tokens: int | None = field(
        default=None, metadata={"help": "With --reuse_states: first tokens of the text that stay in sight."}
    )
    store_place: str | None = field(
        default=None, metadata={"help": "With --reuse_states: where the states lie: device, cpu or disk."}
    )
    store_dtype: str | None = field(
        default=None, metadata={"help": "With --reuse_states: float32, bfloat16 or int8. Default: the model's own."}
    )
    store_limit: str | None = field(
        default=None, metadata={"help": "With --reuse_states: tokens that are kept at most, or bytes such as 2GiB."}
    )

    def __post_init__(self) -> None:
        if self.reuse_states is False:
            refuse_idle(self, OF_KEPT_STATES, "with --reuse_states false")
        check_at_least(self, 0, "num_sink_tokens")
        for name, choices in (("store_place", STORE_PLACES), ("store_dtype", STORE_DTYPES)):
            if (value := getattr(self, name)) is not None:
                check_choice(f"--{name}", value, choices)
        if self.store_limit is not None and not str(self.store_limit).isdecimal():
            parse_bytes(str(self.store_limit))

    def settings(self) -> dict[str, Any]:
        settings = given(self, *self.keywords())
        limit = str(settings.get("store_limit", ""))
        return {**settings, "store_limit": int(limit)} if limit.isdecimal() else settings

    def keywords(self) -> dict[str, Any]:
        return {}


@dataclass
class LookbackArguments(KeptStatesArguments, DtypeArguments, RetrieverArguments):
    """The same as it is used: keywords of `load_srlm`."""

    target_size: int | None = field(
        default=None, metadata={"help": "Tokens that are scored, or generated, against one window."}
    )

    def __post_init__(self) -> None:
        RetrieverArguments.__post_init__(self)
        KeptStatesArguments.__post_init__(self)
        DtypeArguments.__post_init__(self)
        check_at_least(self, 1, "target_size")
        if self.reuse_states:
            refuse_idle(self, ["target_size"], "with --reuse_states, where each chunk has the window before it")

    def keywords(self) -> dict[str, Any]:
        """What the function gets that loads the model."""
        names = ("retriever", "retriever_revision", "retriever_preset", "retriever_base")
        own = {name: getattr(self, name) for name in names}
        of_blocks = {"of_blocks": ("target_size",)}
        return {**own, **of_blocks, **RetrieverArguments.keywords(self), **DtypeArguments.keywords(self)}
