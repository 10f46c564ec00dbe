"""What kind of model a folder, a repo or an object holds."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from hub_cards.travelling.loading import HUB_KEYWORDS

ModelSource = str | Path | PreTrainedModel


def model_type(model: ModelSource, kwargs: dict[str, Any]) -> str:
    """The `model_type` of a model, or of the one in a folder or repo; `kwargs` may say which revision."""
    if isinstance(model, PreTrainedModel):
        return model.config.model_type
    hub = {name: kwargs[name] for name in (*HUB_KEYWORDS, "trust_remote_code") if name in kwargs}
    return AutoConfig.from_pretrained(model, **hub).model_type
