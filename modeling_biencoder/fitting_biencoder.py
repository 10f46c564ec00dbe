# Copied from hub_cards/travelling/fitting.py by "make copies": edit that one.
"""Whether a repo holds what is loaded from it: this kind of model, and each of its weights."""

import os
from collections.abc import Collection
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME

from .loading_biencoder import hub_keywords, not_shared, read_json

CLASSES = {
    "lookback_biencoder": "BiEncoderModel",
    "lookback_llara": "LlaraForPreTraining",
    "lookback_srlm": "SelfRetrievalLM",
}
_MAKES = {
    "lookback_biencoder": "BiEncoderModel.from_backbone(...)",
    "lookback_llara": "LlaraForPreTraining.from_backbone(...)",
    "lookback_srlm": "SelfRetrievalLM.from_components(...)",
}
_SHOWN = 3


def refuse_other_kind(config_class: Any, source: str | os.PathLike, config: Any, keywords: dict[str, Any]) -> None:
    """ValueError where a repo, or the configuration given in place of its own, is of another kind of model."""
    if config is None:
        config = read_json(source, CONFIG_NAME, hub_keywords(keywords))
    found = config.to_dict() if isinstance(config, PreTrainedConfig) else config
    if not isinstance(found, dict) or (kind := found.get("model_type")) is None:
        return  # of a folder that is no model; that is said elsewhere
    wanted = config_class.model_type
    if kind != wanted:
        fix = (
            f"load it with {CLASSES[kind]}.from_pretrained(...)"
            if kind in CLASSES
            else f"one is made of it with {_MAKES.get(wanted, config_class.__name__)}"
        )
        raise ValueError(f"{str(source)!r} is a model of type {kind!r}, no {wanted!r}: {fix}.")
    if not found.get("text_config"):
        raise ValueError(
            f"{CONFIG_NAME} of {str(source)!r} has no text_config, which says what the backbone is: save the model "
            "again."
        )


def check_loaded(model: PreTrainedModel, source: str | os.PathLike, missing: Collection[str]) -> None:
    """ValueError for weights that a repo does not hold, and which would be random numbers."""
    if lacking := sorted(not_shared(model, missing)):
        more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        raise ValueError(
            f"{str(source)!r} lacks weights of its model: {', '.join(lacking[:_SHOWN])}{more}. Save the model again, "
            "whole (with output_loading_info=True it is loaded as it is, these filled with random numbers)."
        )
