"""Whatever embeddings and scores depend on: settings and weights, which outputs name and resumed jobs hold to."""

from typing import Any

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM

from ..jobs.parts import weights_digest

WEIGHTS_DIGEST = "sha256 of the weights"
RETRIEVER_DIGEST = "sha256 of the retriever"  # where it is asked


def encoding_settings(model: BiEncoderModel) -> dict[str, Any]:
    """Whatever the embeddings of a text depend on."""
    return {**configured(model.config), WEIGHTS_DIGEST: weights_digest(model)}


def configured(config: BiEncoderConfig) -> dict[str, Any]:
    """The same without the weights."""
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
    return {**configured, WEIGHTS_DIGEST: weights_digest(model.language_model)}
