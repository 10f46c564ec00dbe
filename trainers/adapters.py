"""PEFT adapters inside our models: `add_adapter` keeps the class, its code and its loading what they are."""

import copy
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

ADAPTER_NAME = "default"


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether `add_adapter` or `load_adapter` was called on the model."""
    return model._hf_peft_config_loaded


def add_adapter(
    model: PreTrainedModel,
    peft_config: PeftConfig,
    new_token_ids: list[int] | None = None,
    trained_modules: list[str] | None = None,
) -> None:
    """Put an adapter into the model; from then on it alone trains, and is all that a checkpoint holds.

    Args:
        peft_config: used as a copy. Without `target_modules`, a LoRA goes into every linear layer of the backbone but
            its head; without a `task_type` it is FEATURE_EXTRACTION.
        new_token_ids: tokens that the backbone never saw. Their embedding rows (and head rows, where the head is not
            tied) train too, unless the configuration says which rows or whole matrices do.
        trained_modules: names of modules that a LoRA trains whole and saves, beside those of the configuration.

    Raises TypeError for another kind of configuration, ValueError for a model that has adapters already.
    """
    if not isinstance(peft_config, PeftConfig):
        raise TypeError(f"peft_config is a {type(peft_config).__name__}; pass a PeftConfig such as peft.LoraConfig().")
    if has_adapters(model):
        raise ValueError("The model has an adapter already: merge it first, or leave peft_config out to train it on.")
    peft_config = copy.deepcopy(peft_config)
    peft_config.task_type = peft_config.task_type or "FEATURE_EXTRACTION"
    if isinstance(peft_config, LoraConfig):
        if peft_config.target_modules is None:
            peft_config.target_modules = "all-linear"
            if peft_config.exclude_modules is None:  # a nested retriever is frozen: an adapter in it gets no gradient
                peft_config.exclude_modules = rf"(?!{model.base_model_prefix}\.).*"
        if new_token_ids and not peft_config.trainable_token_indices and not peft_config.modules_to_save:
            peft_config.trainable_token_indices = _token_rows(model, new_token_ids)
        if trained_modules:
            peft_config.modules_to_save = [*(peft_config.modules_to_save or ()), *trained_modules]
    model.add_adapter(peft_config, ADAPTER_NAME)


def _token_rows(model: PreTrainedModel, token_ids: list[int]) -> dict[str, list[int]]:
    """{name of the module: token ids} of the embeddings, and of the head if it has rows of its own."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    rows = {names[embeddings]: list(token_ids)}
    if head is not None and head.weight is not embeddings.weight:
        rows[names[head]] = list(token_ids)
    return rows


def load_adapter(model: PreTrainedModel, folder: str | Path, is_trainable: bool = False) -> None:
    """Put a checkpoint's adapter on a model like the one it was trained on; `is_trainable` to train it further."""
    model.load_adapter(str(folder), adapter_name=ADAPTER_NAME, is_trainable=is_trainable)


def load_adapter_weights(model: PreTrainedModel, folder: str | Path | None) -> None:
    """Load the adapter weights of a checkpoint into the adapter that is on the model.

    Raises ValueError where the folder has none, or weights of another adapter configuration.
    """
    if folder is None:
        raise ValueError("There is no checkpoint to load the adapter from.")
    file = Path(folder) / ADAPTER_SAFE_WEIGHTS_NAME
    if not file.is_file():
        raise ValueError(
            f"{str(folder)!r} holds no {ADAPTER_SAFE_WEIGHTS_NAME}: it is not a checkpoint of an adapter."
        )
    weights = {name.removeprefix("base_model.model."): value for name, value in load_file(file).items()}
    result: Any = set_peft_model_state_dict(model, weights, ADAPTER_NAME)
    if result.unexpected_keys:
        raise ValueError(
            f"{str(file)!r} holds {result.unexpected_keys[0]!r}, which the model's adapter lacks: use the peft_config "
            f"that the checkpoint was made with."
        )


def check_not_wrapped(model: object) -> None:
    """TypeError for a model inside peft's own wrapper, which hides what the model is."""
    if isinstance(model, PeftModel):
        raise TypeError("The model is wrapped by peft: pass the model itself, and the adapter as peft_config.")
