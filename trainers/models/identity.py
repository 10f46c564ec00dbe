"""Whatever embeddings and scores depend on: settings and weights, which outputs name and resumed jobs hold to."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hub_cards.travelling.vocabulary import merges_of
from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM
from modeling_srlm.retriever_srlm import NestedRetriever

from ..jobs.parts import DIGEST, DTYPE

WEIGHTS_DIGEST = f"{DIGEST}the weights"  # of the first 64 numbers of each, which all versions have
RETRIEVER_DIGEST = f"{DIGEST}the retriever"  # the same, where it is asked
ALL_WEIGHTS, TOKENIZER = f"{DIGEST}all weights", f"{DIGEST}the tokenizer"
BACKBONE, WHOLE_RETRIEVER = f"{DIGEST}the backbone's configuration", f"{DIGEST}all of the retriever"
# What tokenizers of one vocabulary may read differently: case, accents, digits, white space, scripts, special tokens.
_PROBE = (
    "Lookback: naïve Café, e\u0301 ÅNGSTRÖM, don't  keep\ttabs\n\nor 1234567.89 ½ № ﬁne; 東京タワー, Привет мир, "
    "مرحبا, हिन्दी, 한국어, 🙂👩‍👧 camelCase snake_case x==y https://a.b/c?d=1&e=2 <s></s> [MASK] [CLS]\r\n "
)
_SIDE = 256  # the bits of a weight are summed by rows and columns of so many 64-bit words, which a cache holds
# What a configuration says and no embedding or score depends on: all that every one has (names, labels, types), what
# is of training alone, and the ids, which training aligns with the tokenizer's.
_NOT_OF_NUMBERS = {*PreTrainedConfig().to_dict(), "use_cache", "tie_word_embeddings", "auto_map"}
_OF_TRAINING = ("_token_id", "dropout", "_pdrop", "initializer", "aux_loss", "output_router_logits", "quantization_")
_ABSENT = object()


def dtype_settings(model: torch.nn.Module, name: str = "the weights") -> dict[str, str]:
    """What a model's weights are computed in, as text: digests are those of the same weights in another dtype, too."""
    dtypes = {str(weight.dtype).removeprefix("torch.") for weight in model.parameters()}
    configs = (getattr(one.config, "quantization_config", None) for one in model.modules() if hasattr(one, "config"))
    quantized = {str(getattr(one, "quant_type", one)) for one in configs if one is not None}
    return {f"{DTYPE}{name}": ", ".join([*sorted(dtypes), *sorted(quantized)])}


def encoding_settings(model: BiEncoderModel) -> dict[str, Any]:
    """Whatever the embeddings of a text depend on."""
    return {**configured(model.config), **fingerprint(model, model.tokenizer)}


def configured(config: BiEncoderConfig) -> dict[str, Any]:
    """The same without the weights and the tokenizer."""
    names = ("pooling", "pooling_k", "normalize", "bidirectional", "similarity", "prompts", "max_length")
    settings = {name: getattr(config, name) for name in (*names, "append_eos", "separate_prompts")}
    if config.dense:  # left out where there are none, as in the files of former versions
        settings["dense"] = config.dense
    return settings


def srlm_settings(model: SelfRetrievalLM) -> dict[str, Any]:
    """The settings of a model that looks back, and whose weights it has: whatever its scores depend on."""
    nested = {"sub_configs", *SelfRetrievalConfig.sub_configs}
    names = (name for name in SelfRetrievalConfig.__annotations__ if name not in nested)
    configured = {name: getattr(model.config, name) for name in names}
    lm = model.language_model
    return {**configured, **fingerprint(lm, model.tokenizer), **dtype_settings(lm)}


def retriever_settings(retriever: Any) -> dict[str, Any]:
    """The same of what finds chunks for a model that looks back: a torch module."""
    own = {ALL_WEIGHTS: all_weights_digest(retriever)}
    if isinstance(retriever, NestedRetriever | BiEncoderModel):
        own = fingerprint(retriever, retriever.tokenizer)
    whole = {RETRIEVER_DIGEST: weights_digest(retriever), WHOLE_RETRIEVER: _digest([json.dumps(own)])}
    return {**whole, **dtype_settings(retriever, "the retriever")}


def fingerprint(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What no model with other weights, another backbone's configuration or another tokenizer has. Settings of former
    versions hold the first alone."""
    return {
        WEIGHTS_DIGEST: weights_digest(model), ALL_WEIGHTS: all_weights_digest(model),
        TOKENIZER: tokenizer_digest(tokenizer), **_backbone_digest(model),
    }  # fmt: skip


def weights_digest(model: torch.nn.Module) -> str:
    """A sha256 of the first 64 numbers of every parameter, each of which training moves."""
    return _digest(plain.flatten()[:64].float().cpu().numpy().tobytes() for plain in _plain(_parameters(model)))


def all_weights_digest(model: torch.nn.Module) -> str:
    """A sha256 that no other weights have, whatever the device, and whether they were widened to float32 or not.

    Buffers that are saved with the model count as weights: some models have whole layers in them.
    """
    parameters, state = _parameters(model), model.state_dict()
    buffers = {name: state[name] for name in state if name not in parameters and torch.is_tensor(state[name])}
    return _digest(_sums(plain) for group in (parameters, buffers) for plain in _plain(group))


def _sums(weight: torch.Tensor) -> bytes:
    """Of its bits, in squares of words, the sums of the rows and of the columns: whole numbers, alike everywhere.

    They are made where the weight is, as fast as it is read, and are much less to hash than the weight.
    """
    sums = [torch.empty(0, dtype=torch.int64, device=weight.device)]
    for piece in weight.flatten().split(2 * _SIDE**2):
        square = _words(_unwidened(piece)).view(-1, _SIDE)
        sums += [square.sum(0), square.sum(1)]
    return torch.cat(sums).cpu().numpy().tobytes()


def _unwidened(piece: torch.Tensor) -> torch.Tensor:
    """Floats as bfloat16's bits if these hold them, else as float32's; anything else as it is."""
    if not piece.is_floating_point() or piece.dtype in (torch.bfloat16, torch.float64) or not len(piece):
        return piece
    bits = piece.float().view(torch.int32)
    if any((some & 0xFFFF).max() for some in (bits[:64], bits)):  # a few say it of nearly all that was not widened
        return bits
    return (bits >> 16).to(torch.int16)


def _words(piece: torch.Tensor) -> torch.Tensor:
    """Its bytes as int64, with zeros to the end of a row of words."""
    raw = piece.view(torch.uint8)
    if missing := -len(raw) % (8 * _SIDE):
        raw = F.pad(raw, (0, missing))
    elif raw.storage_offset() % 8:
        raw = raw.clone()
    return raw.view(torch.int64)


def _parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters(remove_duplicate=False))


def _plain(tensors: dict[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """Each once, in the tensors that it is made of: torchao's hold whole numbers and scales."""
    for name, tensor in {id(tensor): (name, tensor) for name, tensor in tensors.items()}.values():
        weight = tensor.detach()
        if weight.is_meta:
            raise ValueError(
                f"The weight {name!r} is on the device 'meta' and has no numbers, by which a model is known again: "
                "load the model whole, without a device_map that leaves weights on the disk."
            )
        if is_traceable_wrapper_subclass(weight):
            yield from (getattr(weight, part) for part in weight.__tensor_flatten__()[0])
        else:
            yield weight


def _backbone_digest(model: torch.nn.Module) -> dict[str, str]:
    """Of how the backbone computes with its weights, by its configuration; none of what is no model of transformers.

    What is said as the library has it by itself is left out, and so a later version that says more changes nothing.
    """
    models = (one for one in model.modules() if isinstance(one, PreTrainedModel))
    backbone = next((one for one in models if not isinstance(one, BiEncoderModel)), None)
    if backbone is None:
        return {}
    config = backbone.config
    try:
        usual = type(config)().to_dict()
    except (TypeError, ValueError):  # a class that does not say what is usual
        usual = {}
    settings = json.loads(json.dumps(_of_numbers(config.to_dict(), usual), default=str))
    return {BACKBONE: _digest([json.dumps(settings, sort_keys=True)])}


def _of_numbers(settings: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """What a computation depends on, of a configuration and those within, where it is not as usual."""
    kept = {"model_type": settings.get("model_type")}
    for name, value in settings.items():
        if name in _NOT_OF_NUMBERS or any(part in name for part in _OF_TRAINING) or usual.get(name, _ABSENT) == value:
            continue
        kept[name] = _of_numbers(value, dict(usual.get(name) or {})) if isinstance(value, dict) else value
    return kept


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A sha256 of its vocabulary and merges, and of what it makes of a text of many kinds: how its library writes down
    the rest, which changes with the library's version, does not count."""
    made, vocabulary = [tokenizer(_PROBE, verbose=False)["input_ids"], tokenizer.eos_token_id], tokenizer.get_vocab()
    words = sorted(vocabulary)  # CANINE has a million: few and large pieces
    ids, merges = list(map(vocabulary.get, words)), merges_of(tokenizer)
    return _digest([json.dumps(made), json.dumps(ids), "\0".join(words), merges])


def _digest(parts: Iterator[bytes] | list[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogatepass") + b"\0" if isinstance(part, str) else part)
    return digest.hexdigest()
