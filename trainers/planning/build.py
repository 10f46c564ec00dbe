"""The model of a plan, its parameters without contents: from its configuration alone."""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraConfig, LlaraForPreTraining
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM

from ..models.adapters import add_adapter
from ..models.kind import check_plain, config_of, find_file
from ..models.weightless import build_weightless
from .settings import PlannedModel, PlannedTexts

FAMILIES = {"biencoder": BiEncoderModel, "llara": LlaraForPreTraining, "srlm": SelfRetrievalLM}
SRLM_SETTINGS = ("context_window_size", "chunk_size", "key_num", "reuse_states", "store_dtype")
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
PROMPT_TOKENS = 8  # special tokens of each of LLaRA's prompts, unless its configuration says another number


def build_planned(asked: PlannedModel, texts: PlannedTexts, place: dict[str, Any]) -> Any:
    """The family's model on the device "meta", in the type of its weights, with its LoRA if there is one.

    Raises OSError or ValueError where there is no model of a kind that transformers knows, or settings do not fit it.
    """
    with _folder(asked.model) as source:
        config = config_of(source, place)
        _check_decoder(asked, config)
        keywords = {**place, **_settings(asked.system, texts, config)}
        if asked.system == "llara" and config.model_type != LlaraConfig.model_type:
            check_plain(source, config.model_type, LlaraConfig.model_type)
            model: PreTrainedModel | None = _new_llara(source, config, keywords)
        else:
            model = build_weightless(FAMILIES[asked.system], source, config, keywords)
    if model is None:
        raise ValueError(
            f"--model={asked.model!r} is of a kind ({config.model_type}) that cannot be built without its weights: "
            "plan a model of its size that can, such as a Llama."
        )
    _check_attention(asked, text_config_of(model))
    model.to(getattr(torch, asked.dtype)).train()
    if asked.lora_rank is not None:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come when it is put on the model with weights
            add_adapter(model, LoraConfig(r=asked.lora_rank), _new_tokens(model))
        model.to(getattr(torch, asked.dtype))  # as peft does it where there are weights
    elif isinstance(model, SelfRetrievalLM) and model.retriever is not None:
        model.retriever.requires_grad_(False)
    return model


def _check_decoder(asked: PlannedModel, config: Any) -> None:
    """ValueError for what the system cannot be built on; some families' configurations do not say what they are."""
    kind = config.get_text_config().model_type
    encodes = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    both = getattr(config, "is_encoder_decoder", False)
    if asked.system == "biencoder" and both:
        raise ValueError(
            f"--model={asked.model!r} is an encoder with a decoder ({kind}), and a biencoder takes one of the two: "
            "give such a model."
        )
    if asked.system != "biencoder" and (encodes or both):
        raise ValueError(
            f"--model={asked.model!r} is an encoder ({kind}), and --system {asked.system} needs a decoder: give one, "
            "or plan a biencoder."
        )


def _check_attention(asked: PlannedModel, config: Any) -> None:
    """ValueError for a backbone without attention, whose operations and states are counted otherwise."""
    if getattr(config, "num_attention_heads", None) is None or getattr(config, "num_hidden_layers", None) is None:
        raise ValueError(
            f"--model={asked.model!r} is of a kind ({config.model_type}) without attention heads, whose operations "
            "are not known: plan a model of its size that has them, such as a Llama."
        )


def _settings(system: str, texts: PlannedTexts, config: Any) -> dict[str, Any]:
    """Those of the family's configuration that are given."""
    if system != "srlm":
        return {}
    found = {name: value for name in SRLM_SETTINGS if (value := getattr(texts, name)) is not None}
    if not texts.reuse_states:
        found["reuse_states"] = False
    plain = config.model_type != SelfRetrievalConfig.model_type
    return {**found, **({"retrieval_method": "bm25"} if plain else {})}


def _new_tokens(model: Any) -> list[int]:
    """Those whose rows train beside a LoRA: LLaRA's prompts' special tokens."""
    if not isinstance(model, LlaraForPreTraining):
        return []
    return sorted({*model.config.summarize_token_ids, *model.config.predict_token_ids})


@contextmanager
def _folder(model: str) -> Iterator[str]:
    """Where config.json stands: a folder or Hub id; of a file a folder that holds it under that name."""
    if not Path(model).is_file():
        yield model
        return
    if Path(model).suffix != ".json":
        raise ValueError(f"--model={model!r} must be a folder, a Hub id or a config.json: give one of them.")
    with TemporaryDirectory() as folder:
        shutil.copy(model, Path(folder) / "config.json")
        yield folder


def _new_llara(source: str, config: Any, place: dict[str, Any]) -> PreTrainedModel | None:
    """LLaRA on a plain decoder; without a tokenizer as of one that fills the vocabulary, which then grows."""
    if any(find_file(source, name, place) for name in TOKENIZER_FILES):
        return build_weightless(LlaraForPreTraining, source, config, place)
    with torch.device("meta"):
        decoder = AutoModelForCausalLM.from_config(config)
        known, count = config.get_text_config().vocab_size, PROMPT_TOKENS
        decoder.resize_token_embeddings(known + 2 * count, mean_resizing=False)
        prompts = [list(range(known, known + count)), list(range(known + count, known + 2 * count))]
        return LlaraForPreTraining.from_backbone(
            decoder, summarize_prompt_ids=prompts[0], predict_prompt_ids=prompts[1],
            num_summary_tokens=count, num_predict_tokens=count,
        )  # fmt: skip


def system_of(model: Any) -> str:
    """The name of a model's system."""
    return next(name for name, kind in FAMILIES.items() if isinstance(model, kind))


def body_of(model: Any) -> Any:
    """What every token goes through: the backbone without a head, its embeddings included."""
    if isinstance(model, BiEncoderModel):
        return model.backbone
    whole = model.backbone if isinstance(model, LlaraForPreTraining) else model.language_model
    return whole.base_model


def text_config_of(model: Any) -> Any:
    """The configuration of the backbone."""
    return body_of(model).config.get_text_config()


def has_plain_head(model: Any, bf16: bool) -> bool:
    """LLaRA: whether the loss makes the head's gradient along with itself, so that no logits are computed again.

    As `is_plain` in loss_llara.py says it: a linear layer in float32 without autocast, adapter or rows that train.
    """
    return type(model.get_output_embeddings()) is torch.nn.Linear and model.dtype == torch.float32 and not bf16
