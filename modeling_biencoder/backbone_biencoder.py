"""The backbone of a new bi-encoder: from the Hub, a folder or memory, as a base model; and which see both ways."""

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import CONFIG_NAME, logging

from .adapting_biencoder import refuse_adapted
from .backbones_biencoder import load_backbone_weights, tokenizer_place
from .halves_biencoder import refuse_halves
from .loading_biencoder import hub_keywords, read_json, split_keywords, tokenizer_keywords
from .pooling_biencoder import check_own_dense
from .published_biencoder import check_tokens, published_parts
from .sentence_modules_biencoder import SentenceTransformerParts
from .sentence_transformers_biencoder import (
    dense_weights,
    is_sentence_transformer,
    longest_input,
    lower_cased,
    say_two_tokenizers,
    states_of_dense,
    unwrapped,
    within,
)
from .vocabulary_biencoder import compare_given, load_tokenizer

if TYPE_CHECKING:
    from .modeling_biencoder import BiEncoderModel

logger = logging.get_logger(__name__)
_NONE_IS_A_VALUE = ("dense", "embedding_dims")  # no layers, no widths; of other fields None leaves them to the model
_UNSAID = (
    "{!r} is a plain backbone, which says nothing of pooling, lengths and prompts: it gets pooling='last_token', "
    "normalize=True, up to 512 tokens and no prompts. Give pooling=... (encoders mostly take 'mean' or 'cls'), or the "
    "preset=... of the published model that it is a copy of."
)

# Which decoders see both ways where `bidirectional=True` asks for it, by `config.model_type`. transformers reads
# `config.is_causal=False` where it makes the attention mask, but not every family's code goes through there: some stay
# causal without a word (GPT-Neo, the recurrent ones), StableLM and Nemotron do so only where nothing is padded, MPT
# fails. So they are named here, each verified by tests/biencoder/test_bidirectional.py: a later token changes an
# earlier state, and padding is never seen. Bloom, CodeGen, Gemma 2, GPT-J, gpt-oss and XGLM run under eager attention
# alone.
BIDIRECTIONAL_DECODERS = (
    "apertus", "arcee", "biogpt", "bitnet", "bloom", "codegen", "cohere", "cohere2", "deepseek_v3", "diffllama",
    "doge", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode",
    "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "llama", "ministral3", "mistral", "mixtral", "nanochat",
    "olmo", "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "seed_oss", "smollm3", "starcoder2", "xglm",
)  # fmt: skip

# Families whose layers look past the attention mask (convolutions, Fourier and Nyström sums): padding moves them.
_LOOK_AT_PADDING = ("convbert", "cpmant", "fnet", "mobilebert", "nystromformer", "paligemma", "yoso")
_MOVED = (
    "The states of %s depend on padding, and so an embedding on the texts that it shares a batch with: embed texts of "
    "one length at a time where that matters."
)


def is_own_code(backbone: Any) -> bool:
    """Whether a backbone runs transformers' code of its family, and not a repo's or a subclass, which may attend
    otherwise."""
    classes = type(backbone).__mro__  # FSDP puts one of its own before them
    own = next(one.__module__ for one in classes if not one.__module__.startswith("torch."))
    return own.startswith("transformers.models.")


def sees_both_ways(model: Any) -> bool:
    """Whether a decoder's tokens attend to later ones: where the bi-encoder asks for it, or the backbone's config."""
    config = model.backbone.config.get_text_config()
    as_it_is = getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False)
    return bool(model.config.bidirectional or as_it_is)


def from_backbone(
    model_class: type["BiEncoderModel"],
    backbone: Any,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike | None,
    settings: dict[str, Any],
) -> "BiEncoderModel":
    """What `BiEncoderModel.from_backbone` returns."""
    config_class = model_class.config_class
    names = [name for name in config_class.keywords() if name != "text_config"]
    preset, settings = settings.get("preset"), {key: value for key, value in settings.items() if key != "preset"}
    fields, loading = split_keywords(settings, names, "from_backbone")
    fields = {name: value for name, value in fields.items() if value is not None or name in _NONE_IS_A_VALUE}
    backbone, dense = unwrapped(backbone), {}
    parts = published_parts(backbone, loading, preset, fields)
    if parts is not None:
        check_own_dense(fields.get("dense"), parts.fields.get("dense"))
    if is_sentence_transformer(backbone):
        dense = states_of_dense(backbone)
        backbone, tokenizer = backbone[0].auto_model, backbone.tokenizer if tokenizer is None else tokenizer
    elif parts is not None:
        dense = dense_weights(backbone, parts, loading)
        loading = within(loading, parts.folder)
    if isinstance(backbone, str | os.PathLike):  # before weights are read
        refuse_halves(backbone, loading)
        tokenizer = _words_of(backbone, tokenizer, parts, loading)
    base = load_backbone(backbone, loading)
    source = backbone if isinstance(backbone, str | os.PathLike) else base.config.name_or_path
    if parts is None and not fields:
        logger.warning_once(_UNSAID.format(source or type(base).__name__))
    complete = {**(parts.fields if parts else {}), **fields}
    model = model_class(config_class(text_config=base.config, **complete), backbone=base)
    model.train(base.training)
    _take_tokenizer(model, tokenizer, source, loading)
    if parts is not None:
        _finish_parts(model, parts, dense, fields)
    return model


def _words_of(source: Any, tokenizer: Any, parts: SentenceTransformerParts | None, loading: dict[str, Any]) -> Any:
    """The tokenizer for a backbone to load: the one given, or a sentence-transformers model's, which has one always.

    None of a plain backbone: ids alone may be asked of that.
    """
    if tokenizer is not None:
        tokenizer = _loaded(tokenizer, loading)
        compare_given(tokenizer, *tokenizer_place(source, loading))
        return tokenizer
    if parts is None:
        return None
    tokenizer = load_tokenizer(*tokenizer_place(source, loading))
    say_two_tokenizers(tokenizer, source, parts, loading)
    return tokenizer


def _loaded(tokenizer: Any, loading: dict[str, Any]) -> Any:
    if not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    trust = tokenizer_keywords(loading)["trust_remote_code"]  # the rest says where the backbone is
    return load_tokenizer(tokenizer, {"trust_remote_code": trust})


def _take_tokenizer(model: "BiEncoderModel", tokenizer: Any, source: Any, loading: dict[str, Any]) -> None:
    if tokenizer is not None:
        model.tokenizer = _loaded(tokenizer, loading)
    elif source:
        model._remember_source(*tokenizer_place(source, loading))


def _finish_parts(
    model: "BiEncoderModel", parts: SentenceTransformerParts, dense: dict[str, Any], fields: dict[str, Any]
) -> None:
    """The dense layers' weights, lower case, and the length that the tokenizer knows."""
    if model.dense is not None and dense:
        model.dense.load_state_dict(dense)
        first = next(model.backbone.parameters())
        model.dense.to(first.device, first.dtype)
    if parts.tokens:
        check_tokens(parts, model.tokenizer)
    if parts.lower_case:
        model.tokenizer = lower_cased(model.tokenizer)
    if "max_length" not in fields:
        tokenizer = model.tokenizer if parts.max_length is None else None
        model.config.max_length = longest_input(parts, tokenizer, model.config.max_positions)


_OURS = {
    "lookback_biencoder": "a bi-encoder already: load it with BiEncoderModel.from_pretrained(...)",
    "lookback_llara": "a LLaRA model, which has prompts and a pooling of its own: give save_backbone(folder) and "
    "**llara.to_biencoder(), or its folder to BiEncoderTrainer, which takes them over",
    "lookback_srlm": "a self-retrieval LM: give the language model that it was made of, its `language_model`",
}


def load_backbone(backbone: str | os.PathLike | PreTrainedModel, loading: dict[str, Any]) -> PreTrainedModel:
    """The base model of `backbone`; a model given as such is taken over, not copied.

    Weights are safetensors; `use_safetensors=False` is the caller's word that a pickle of theirs may be read.

    Raises TypeError where `backbone` is none of the three, ValueError where it cannot serve.
    """
    if isinstance(backbone, PreTrainedModel):
        if loading:
            raise ValueError(
                f"{sorted(loading)} have no meaning for a model that is already loaded: load it with them, or pass "
                "its repo id or path."
            )
        refuse_adapted(backbone)
        model = backbone
    elif isinstance(backbone, str | os.PathLike):
        if not loading.get("gguf_file"):
            config = read_json(backbone, CONFIG_NAME, hub_keywords(loading))
            _refuse_ours(config.get("model_type") if isinstance(config, dict) else None)
        model = load_backbone_weights(AutoModel, backbone, loading)
    else:
        raise TypeError(
            f"backbone must be a repo id, a path or a PreTrainedModel, not {type(backbone).__name__}: merge a PEFT "
            "model first (merge_and_unload()), or add the adapter to the bi-encoder."
        )
    _refuse_ours(model.config.model_type)
    if model.config.is_encoder_decoder:
        raise ValueError(f"{type(model).__name__} is an encoder-decoder: use an encoder or a decoder alone.")
    # Only a base model is its own base model; around it there may be more than one head.
    while isinstance(model.base_model, PreTrainedModel) and model.base_model is not model:
        model = model.base_model
    if model.config.model_type in _LOOK_AT_PADDING:
        logger.warning_once(_MOVED % repr(model.config.model_type))
    return model


def initialize(model: Any, given: bool) -> None:
    """`post_init` of a bi-encoder; a backbone that was given as a model is taken over as it is.

    (transformers draws anew what it has not loaded or drawn itself: embeddings and layers that a person put there.)
    """
    with init.no_init_weights() if given else nullcontext():
        model.post_init()
    if given and model.dense is not None:
        model.dense.apply(model._init_weights)


def _refuse_ours(model_type: object) -> None:
    if (fix := _OURS.get(str(model_type))) is not None:
        raise ValueError(f"the backbone is {fix}.")


def check_bidirectional(model_type: str) -> None:
    """ValueError for a decoder that `bidirectional=True` is not known to open; encoders are bidirectional already."""
    if model_type not in BIDIRECTIONAL_DECODERS and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ValueError(
            f"bidirectional=True is not known to take effect on a {model_type!r} backbone, which might silently stay "
            f"causal: leave it False, or use a backbone of one of {', '.join(BIDIRECTIONAL_DECODERS)}."
        )
