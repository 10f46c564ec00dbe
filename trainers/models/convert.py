"""From LLaRA to retrieval: a bi-encoder with both prompts."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.prompting_biencoder import special_tokens
from modeling_llara import LlaraConfig, LlaraForPreTraining
from modeling_llara.prompts_llara import check_prompts

from .kind import ModelSource, model_type


def biencoder_from_llara(
    llara: LlaraForPreTraining, tokenizer: PreTrainedTokenizerBase | None = None, **settings: Any
) -> BiEncoderModel:
    """The bi-encoder on the backbone of a LLaRA model, which is taken over, with its prompts and pooling.

    Args:
        settings: fields of `BiEncoderConfig` that replace those of `llara.to_biencoder()`.

    Raises ValueError for a tokenizer that puts a token behind the prompts' special tokens, or does not know them.
    """
    tokenizer = llara.tokenizer if tokenizer is None else tokenizer
    check_ends_open(tokenizer)
    check_prompts(llara.config, tokenizer)
    settings = {**llara.to_biencoder(), **settings}
    biencoder = BiEncoderModel.from_backbone(llara.backbone, tokenizer=tokenizer, **settings)
    biencoder.name_or_path = llara.name_or_path  # an adapter is made for these weights, not for LLaRA's own backbone's
    return biencoder


def build_biencoder(
    backbone: ModelSource, tokenizer: PreTrainedTokenizerBase | None = None, kind: str | None = None, **settings: Any
) -> BiEncoderModel:
    """A new bi-encoder on a backbone; a LLaRA model or its repo brings its prompts and pooling.

    Args:
        backbone: repo id, folder or model.
        kind: the backbone's `model_type`, where the caller has looked already.
        settings: fields of `BiEncoderConfig`; for a backbone to load also loading keywords such as `revision`.
    """
    if (kind or model_type(backbone, settings)) != LlaraConfig.model_type:
        return BiEncoderModel.from_backbone(backbone, tokenizer=tokenizer, **settings)
    if isinstance(backbone, LlaraForPreTraining):
        return biencoder_from_llara(backbone, tokenizer, **settings)
    if settings.pop("preset", None) is not None:
        raise ValueError("preset is for a published model, and a LLaRA model brings its own prompts: leave it out.")
    source: Any = backbone
    loading = {name: value for name, value in settings.items() if name not in BiEncoderConfig.keywords()}
    fields = {name: value for name, value in settings.items() if name in BiEncoderConfig.keywords()}
    return biencoder_from_llara(LlaraForPreTraining.from_pretrained(source, **loading), tokenizer, **fields)


def check_ends_open(tokenizer: PreTrainedTokenizerBase) -> None:
    """ValueError for a tokenizer that puts a token behind every text."""
    if special_tokens(tokenizer, append_eos=False)[1]:
        raise ValueError(
            f"{type(tokenizer).__name__} ends every text with a token of its own, which would take the place of a "
            "special token in the pooling: load it with add_eos_token=False."
        )
