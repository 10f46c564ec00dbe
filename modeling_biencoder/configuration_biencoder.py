"""What a bi-encoder is, beside its weights: backbone, pooling, normalisation, temperature, prompts, lengths."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .backbone_biencoder import check_bidirectional
from .checks_biencoder import check_choice, check_fields, check_keywords, check_number, check_positive_int
from .format_biencoder import check_format
from .inputs_biencoder import check_max_length
from .loading_biencoder import CONFIG_KEYWORDS, part_config
from .pooling_biencoder import POOLINGS, check_dense
from .prompting_biencoder import PROMPT_KEYS
from .saving_biencoder import FolderlessConfig

SIMILARITIES = ("cosine", "dot")
DEFAULT_MAX_LENGTH = 512
# Their first token's position is the one behind the padding token's id, as in fairseq: those before it go unused.
COUNTED_FROM_PADDING = {
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


class BiEncoderConfig(FolderlessConfig, PreTrainedConfig):
    """Configuration of a `BiEncoderModel`.

    Args:
        text_config: the backbone's configuration (a `PreTrainedConfig` or its dict); a Llama's if None.
        pooling: how the last hidden states become one vector: `last_token`, `cls` (the first token), `mean`, or
            `mean_last_k` (the mean of the last `pooling_k` tokens).
        pooling_k: tokens that `mean_last_k` averages.
        dense: linear layers behind the pooling, as sentence-transformers' models may have them: a list of
            {"in_features", "out_features", "bias", "activation"}.
        normalize: divide each embedding by its L2 norm.
        temperature: scores in the loss are divided by it; read it as `score_temperature`, which is 1 where the
            embeddings are not normalised.
        bidirectional: every token of a decoder backbone sees every other one (within its window, in layers that slide
            one); for the families of `backbone_biencoder.BIDIRECTIONAL_DECODERS`, and encoders as they are.
        embedding_dims: widths the embeddings were trained to be cut to (Matryoshka, arXiv:2205.13147), if any.
        similarity: `cosine` or `dot`; by default `cosine` where the embeddings are normalised, else `dot`.
        prompts: {task: {"query": prefix, "passage": prefix, "query_suffix": ..., "passage_suffix": ...}}, any of the
            four keys. The task "default" holds where none is named.
        max_length: longest input in tokens, prompt and special tokens included; by default 512, or the backbone's
            positions where those are fewer. Texts are cut at their end, never prompts.
        append_eos: end every text with the end-of-sequence token, where the tokenizer does not (for `last_token`).
        separate_prompts: tokenise prefix, text and suffix each on its own, as the LLaRA checkpoints are used,
            rather than as one string.
        negatives_cross_device: in-batch negatives come from all processes of a distributed run.

    Raises ValueError or TypeError for a wrong value, and ValueError for an unknown keyword.
    """

    model_type = "lookback_biencoder"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012  (the form every transformers version reads)

    # Where the default is None, __post_init__ fills in the value.
    text_config: PreTrainedConfig = None  # type: ignore[assignment]
    pooling: str = "last_token"
    pooling_k: int = 8
    dense: list[dict[str, Any]] | None = None
    normalize: bool = True
    temperature: float = 0.02
    bidirectional: bool = False
    embedding_dims: list[int] | None = None
    similarity: str = None  # type: ignore[assignment]
    prompts: dict[str, dict[str, str]] = None  # type: ignore[assignment]
    max_length: int = None  # type: ignore[assignment]
    append_eos: bool = False
    separate_prompts: bool = False
    negatives_cross_device: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs["lookback_format"] = check_format(kwargs.get("lookback_format"))
        # Only a saved configuration names its model type: whatever else it holds, it must load.
        if "model_type" not in kwargs:
            check_keywords(kwargs, [*self.keywords(), *CONFIG_KEYWORDS], type(self).__name__)
        self.text_config = part_config("text_config", self.text_config) or AutoConfig.for_model("llama")
        check_fields(self, BiEncoderConfig, but=("prompts",))
        self.prompts = {} if self.prompts is None else self.prompts
        if self.similarity is None:
            self.similarity = "cosine" if self.normalize else "dot"
        if self.max_length is None:
            self.max_length = min(DEFAULT_MAX_LENGTH, self.max_positions or DEFAULT_MAX_LENGTH)
        self._check()
        if self.bidirectional:
            self.text_config.is_causal = False  # transformers' masks and attention read it from there
        # transformers sets these on the sub-configuration too: None would undo what the backbone was loaded with
        kwargs.setdefault("attn_implementation", self.text_config._attn_implementation)
        kwargs.setdefault("experts_implementation", self.text_config._experts_implementation)
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("similarity", self.similarity, SIMILARITIES)
        check_positive_int("pooling_k", self.pooling_k, "give the number of tokens to average")
        check_max_length("max_length", self.max_length, self.max_positions)
        check_number("temperature", self.temperature, above=0.0)
        check_dense(self.dense, self.pooled_size)
        _check_prompts(self.prompts)
        if self.bidirectional:
            check_bidirectional(self.text_config.model_type)
        if self.embedding_dims is not None:
            _check_embedding_dims(self.embedding_dims, self.hidden_size)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; fields given beside a saved configuration are checked and work like saved ones."""
        given = {name: kwargs.pop(name) for name in cls.keywords() if name in kwargs}
        if config_dict.get("bidirectional") and given.get("bidirectional") is False:
            text_config = {name: value for name, value in config_dict["text_config"].items() if name != "is_causal"}
            config_dict = {**config_dict, "text_config": text_config}
        return super().from_dict({**config_dict, **given}, **kwargs)

    @classmethod
    def keywords(cls) -> list[str]:
        """Names of the fields that belong to the bi-encoder itself."""
        inherited = {field.name for field in fields(PreTrainedConfig)}
        return [field.name for field in fields(cls) if field.name not in inherited]

    @property
    def hidden_size(self) -> int:
        """Width of the embeddings before any truncation."""
        return self.dense[-1]["out_features"] if self.dense else self.pooled_size

    @property
    def pooled_size(self) -> int:
        """Width of the backbone's states, and of what is pooled from them."""
        return self.text_config.get_text_config().hidden_size

    @property
    def max_positions(self) -> int | None:
        """The most tokens that the backbone has positions for, None where it does not say."""
        text_config = self.text_config.get_text_config()
        positions = getattr(text_config, "max_position_embeddings", None)
        rotary = getattr(text_config, "position_embedding_type", None) == "rotary"  # of ESM: nothing is counted
        if positions is None or rotary or text_config.model_type not in COUNTED_FROM_PADDING:
            return positions
        return positions - text_config.pad_token_id - 1

    @property
    def score_temperature(self) -> float:
        """What scores are divided by in the loss: `temperature`, or 1 where the embeddings are not normalised."""
        return self.temperature if self.normalize else 1.0


def _check_prompts(prompts: object) -> None:
    """Raise TypeError or ValueError unless `prompts` is {task: {prompt key: text}}."""
    if not isinstance(prompts, Mapping):
        raise TypeError(
            f"prompts must be a dict {{task: {{'query': prefix, ...}}}}, not {type(prompts).__name__}: "
            "the task used when none is named is 'default'."
        )
    for task, prompt in prompts.items():
        if not isinstance(task, str):
            raise TypeError(f"prompts has the task {task!r}, and a task must be a text: name it in one.")
        if not isinstance(prompt, Mapping):
            raise TypeError(f"prompts[{task!r}]={prompt!r} must be a dict with keys among {list(PROMPT_KEYS)}.")
        check_keywords(prompt, PROMPT_KEYS, f"prompts[{task!r}]")
        for key, text in prompt.items():
            if not isinstance(text, str):
                raise TypeError(f"prompts[{task!r}][{key!r}]={text!r} must be a string.")


def _check_embedding_dims(dims: list[int], width: int) -> None:
    """Raise TypeError or ValueError unless `dims` is a non-empty list of whole numbers from 1 to `width`."""
    if not dims:
        raise ValueError(f"embedding_dims={dims} must be None or a list of one width or more, such as [64, {width}].")
    for dim in dims:
        check_positive_int("embedding_dims", dim)
        if dim > width:
            raise ValueError(f"embedding_dims={list(dims)}: {dim} is wider than the backbone's {width} dimensions.")
    if len(set(dims)) < len(dims):
        raise ValueError(f"embedding_dims={list(dims)} names a width twice: name each once.")


BiEncoderConfig.register_for_auto_class()
