"""From LLaRA to retrieval: a bi-encoder with both prompts, of whatever form the adapted model has."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_llara import LlaraConfig, LlaraForPreTraining
from modeling_llara.prompts_llara import adapted_config, biencoder_keywords

from .trainer_base import ModelSource, model_type


def biencoder_from_llara(
    llara: LlaraForPreTraining, tokenizer: PreTrainedTokenizerBase | None = None, **settings: Any
) -> BiEncoderModel:
    """The bi-encoder on the backbone of a LLaRA model, which is taken over, with its prompts and pooling.

    Args:
        settings: fields of `BiEncoderConfig` that replace those of `llara.to_biencoder()`.

    Raises ValueError for a tokenizer that puts a token behind the prompts' special tokens.
    """
    tokenizer = llara.tokenizer if tokenizer is None else tokenizer
    _check_ends_open(tokenizer)
    return BiEncoderModel.from_backbone(llara.backbone, tokenizer=tokenizer, **{**llara.to_biencoder(), **settings})


def build_biencoder(
    backbone: ModelSource, tokenizer: PreTrainedTokenizerBase | None = None, **settings: Any
) -> BiEncoderModel:
    """A new bi-encoder on a backbone; a LLaRA model or its repo brings its prompts and pooling.

    Args:
        backbone: repo id, folder or model.
        settings: fields of `BiEncoderConfig`; for a backbone to load also loading keywords such as `revision`.
    """
    if model_type(backbone, settings) != LlaraConfig.model_type:
        return BiEncoderModel.from_backbone(backbone, tokenizer=tokenizer, **settings)
    if isinstance(backbone, PreTrainedModel):
        return biencoder_from_llara(backbone, tokenizer, **settings)
    loading = {name: value for name, value in settings.items() if name not in BiEncoderConfig.keywords()}
    fields = {name: value for name, value in settings.items() if name in BiEncoderConfig.keywords()}
    return biencoder_from_llara(LlaraForPreTraining.from_pretrained(backbone, **loading), tokenizer, **fields)


def load_as_biencoder(
    source: str, backbone: str | None = None, revision: str | None = None, **settings: Any
) -> BiEncoderModel:
    """A bi-encoder from a repo id or folder of a LLaRA model, of its LoRA, or of a plain backbone that LLaRA adapted.

    A plain backbone is one that `save_backbone` wrote, or a published checkpoint such as BAAI/LLARA-pretrain: its
    prompts are known by the special tokens of its tokenizer.

    Args:
        backbone: for a LoRA, the model that it was trained on.
        settings: fields of `BiEncoderConfig`.

    Raises ValueError for a model that LLaRA did not adapt, and for a LoRA without its backbone.
    """
    hub = {} if revision is None else {"revision": revision}
    if (Path(source) / "adapter_config.json").is_file():
        return biencoder_from_llara(_merge(source, backbone), **settings)
    if model_type(source, hub) == LlaraConfig.model_type:
        return biencoder_from_llara(LlaraForPreTraining.from_pretrained(source, **hub), **settings)
    tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    config = adapted_config(tokenizer)
    if config is None:
        raise ValueError(
            f"{source!r} is no LLaRA model and its tokenizer has no special tokens of LLaRA's prompts: adapt it with "
            "`lookback pretrain`, or fine-tune it as it is with `lookback finetune`."
        )
    _check_ends_open(tokenizer)
    settings = {**biencoder_keywords(config), **settings}
    return BiEncoderModel.from_backbone(source, tokenizer=tokenizer, **hub, **settings)


def _merge(adapter: str, backbone: str | None) -> LlaraForPreTraining:
    if backbone is None:
        raise ValueError(f"{adapter!r} holds a LoRA: name the model that it was trained on, too, with --backbone.")
    config = LlaraConfig.from_pretrained(adapter)
    if model_type(backbone, {}) == LlaraConfig.model_type:
        llara = LlaraForPreTraining.from_pretrained(backbone)
    else:
        llara = LlaraForPreTraining.from_backbone(
            backbone,
            num_summary_tokens=config.num_summary_tokens,
            num_predict_tokens=config.num_predict_tokens,
            loss_weighting=config.loss_weighting,
        )
    if llara.config.predict_prompt_ids != config.predict_prompt_ids:
        raise ValueError(f"{adapter!r} was not trained on {backbone!r}: its prompts have other token ids.")
    return PeftModel.from_pretrained(llara, adapter).merge_and_unload()


def _check_ends_open(tokenizer: PreTrainedTokenizerBase) -> None:
    bare = tokenizer(".", add_special_tokens=False)["input_ids"]
    if tokenizer(".")["input_ids"][-len(bare) :] != bare:
        raise ValueError(
            f"{type(tokenizer).__name__} ends every text with a token of its own, which would take the place of a "
            "special token in the pooling: load it with add_eos_token=False."
        )
