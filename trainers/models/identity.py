"""Whatever embeddings and scores depend on: settings and weights, which outputs name and resumed jobs hold to."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedTokenizerBase

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM
from modeling_srlm.retriever_srlm import NestedRetriever

from ..jobs.settings import ALL_WEIGHTS, TOKENIZER, WHOLE_RETRIEVER

WEIGHTS_DIGEST = "sha256 of the weights"  # of the first 64 numbers of each, which all versions have
RETRIEVER_DIGEST = "sha256 of the retriever"  # the same, where it is asked
# What tokenizers of one vocabulary may read differently: case, accents, digits, white space, scripts, special tokens.
_PROBE = (
    "Lookback: naïve Café, e\u0301 ÅNGSTRÖM, don't  keep\ttabs\n\nor 1234567.89 ½ № ﬁne; 東京タワー, Привет мир, "
    "مرحبا, हिन्दी, 한국어, 🙂👩‍👧 camelCase snake_case x==y https://a.b/c?d=1&e=2 <s></s> [MASK] [CLS]\r\n "
)
_WIDTH = 512  # numbers of a weight are summed by rows and columns of so many


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
    return {**configured, **fingerprint(model.language_model, model.tokenizer)}


def retriever_settings(retriever: Any) -> dict[str, Any]:
    """The same of what finds chunks for a model that looks back: a torch module."""
    own = {ALL_WEIGHTS: all_weights_digest(retriever)}
    if isinstance(retriever, NestedRetriever | BiEncoderModel):
        own = fingerprint(retriever, retriever.tokenizer)
    return {RETRIEVER_DIGEST: weights_digest(retriever), WHOLE_RETRIEVER: _digest([json.dumps(own)])}


def fingerprint(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What no model with other weights or another tokenizer has. Settings of former versions hold the first alone."""
    return {
        WEIGHTS_DIGEST: weights_digest(model), ALL_WEIGHTS: all_weights_digest(model),
        TOKENIZER: tokenizer_digest(tokenizer),
    }  # fmt: skip


def weights_digest(model: torch.nn.Module) -> str:
    """A sha256 of the first 64 numbers of every parameter, each of which training moves."""
    return _digest(plain.flatten()[:64].float().cpu().numpy().tobytes() for plain in _weights(model))


def all_weights_digest(model: torch.nn.Module) -> str:
    """A sha256 that no other weights have, whatever the device, and whether they were widened to float32 or not."""
    return _digest(sums for plain in _weights(model) for sums in _sums(plain))


def _sums(weight: torch.Tensor) -> Iterator[bytes]:
    """Of its bits as float32, in squares, the sums of the rows and of the columns: whole numbers, alike everywhere.

    They are made where the weight is, and are much less to hash than the weight.
    """
    for piece in weight.flatten().split(_WIDTH**2):
        bits = piece.float().view(torch.int32)
        square = F.pad(bits, (0, -len(bits) % _WIDTH)).view(-1, _WIDTH)
        yield torch.cat([square.sum(dim, dtype=torch.int64) for dim in (0, 1)]).cpu().numpy().tobytes()


def _weights(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """All parameters, in the tensors that they are made of: torchao's hold whole numbers and scales."""
    for parameter in model.parameters():
        weight = parameter.detach()
        if is_traceable_wrapper_subclass(weight):
            yield from (getattr(weight, name) for name in weight.__tensor_flatten__()[0])
        else:
            yield weight


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A sha256 of its vocabulary, and of what it makes of a text of many kinds: how its library writes it down, which
    changes with the library's version, does not count."""
    made = [tokenizer(_PROBE, verbose=False)["input_ids"], tokenizer.eos_token_id]
    return _digest([json.dumps(made), *map(str, sorted(tokenizer.get_vocab().items()))])


def _digest(parts: Iterator[bytes] | list[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogatepass") + b"\0" if isinstance(part, str) else part)
    return digest.hexdigest()
