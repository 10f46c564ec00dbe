"""The backbone of a new bi-encoder: from the Hub, a folder or memory, as a base model; and which see both ways."""

import os
from typing import Any

from transformers import AutoModel, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .loading_biencoder import load_backbone_weights

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
        model = backbone
    elif isinstance(backbone, str | os.PathLike):
        model = load_backbone_weights(AutoModel, backbone, loading)
    else:
        raise TypeError(
            f"backbone must be a repo id, a path or a PreTrainedModel, not {type(backbone).__name__}: merge a PEFT "
            "model first (merge_and_unload()), or add the adapter to the bi-encoder."
        )
    if model.config.model_type == "lookback_biencoder":
        raise ValueError("the backbone is a bi-encoder already: load it with BiEncoderModel.from_pretrained(...).")
    if model.config.is_encoder_decoder:
        raise ValueError(f"{type(model).__name__} is an encoder-decoder: use an encoder or a decoder alone.")
    # Only a base model is its own base model; around it there may be more than one head.
    while isinstance(model.base_model, PreTrainedModel) and model.base_model is not model:
        model = model.base_model
    return model


def check_bidirectional(model_type: str) -> None:
    """ValueError for a decoder that `bidirectional=True` is not known to open; encoders are bidirectional already."""
    if model_type not in BIDIRECTIONAL_DECODERS and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ValueError(
            f"bidirectional=True is not known to take effect on a {model_type!r} backbone, which might silently stay "
            f"causal: leave it False, or use a backbone of one of {', '.join(BIDIRECTIONAL_DECODERS)}."
        )
