"""The backbone of a new bi-encoder: from the Hub, a folder or memory, as a base model without heads."""

import os
from typing import Any

from transformers import AutoModel, PreTrainedModel

from .checks_biencoder import check_keywords
from .loading_biencoder import commit_of

# What AutoModel.from_pretrained takes; everything else given to from_backbone must be a field of the configuration.
LOADING_KEYWORDS = (
    "attn_implementation", "cache_dir", "code_revision", "device_map", "dtype", "experts_implementation",
    "force_download", "key_mapping", "local_files_only", "low_cpu_mem_usage", "max_memory", "offload_buffers",
    "offload_folder", "proxies", "quantization_config", "revision", "subfolder", "token", "tp_plan",
    "trust_remote_code", "use_safetensors", "variant",
)  # fmt: skip


def split_keywords(keywords: dict[str, Any], config_names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of the configuration, loading keywords); ValueError for a keyword that is neither."""
    check_keywords(keywords, [*config_names, *LOADING_KEYWORDS], "from_backbone")
    config = {name: value for name, value in keywords.items() if name in config_names}
    return config, {name: value for name, value in keywords.items() if name not in config_names}


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
        model = AutoModel.from_pretrained(backbone, **{"use_safetensors": True, **loading})
        model.config._commit_hash = commit_of(backbone, loading)  # for an adapter, which names its base
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


def drop_pooler(backbone: PreTrainedModel) -> None:
    """Take away BERT's pooler: it serves next-sentence prediction, and DDP waits for gradients it never gets."""
    if "pooler" in dict(backbone.named_children()):
        backbone.register_module("pooler", None)
