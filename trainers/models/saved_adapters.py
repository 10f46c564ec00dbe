"""Adapters that were saved, put on models: from a folder or the Hub, and the weights of a checkpoint."""

import copy
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG_NAME
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

from hub_cards.travelling.checks import check_bool
from hub_cards.travelling.saving import is_full_disk

from .adapters import ADAPTER_NAME, adapter_name, check_kind, check_model, has_adapters, put
from .bases import fit_names, own_name, record_base
from .kind import Found, find_adapter, find_file, place_of
from .quantization import prepare_quantized

_PREFIX = "base_model.model."


def load_adapter(
    model: PreTrainedModel,
    source: str | Path,
    is_trainable: bool = False,
    revision: str | None = None,
    **loading: Any,
) -> None:
    """Put a saved adapter on a model like the one it was trained on; `is_trainable` to train it further.

    Args:
        source: folder or Hub id of the adapter; `revision` is its branch, tag or commit.
        loading: what else says where the repo lies: `token`, `cache_dir`, `subfolder` and so on.

    Raises ValueError where there is no adapter, one of a kind that our models do not take, or of another model.
    """
    check_model(model)
    check_bool("is_trainable", is_trainable)
    place = place_of({**loading, "revision": revision})
    if (adapter := find_adapter(source, place)) is None:
        raise no_adapter(source)
    put_adapter(model, Found(str(source), None, place, adapter), is_trainable)


def put_adapter(model: PreTrainedModel, found: Found, is_trainable: bool = False) -> None:
    """`load_adapter` of an adapter that was looked at; one made for the backbone alone goes into that."""
    config: Any = copy.deepcopy(found.adapter)
    fit_names(config, model)
    check_kind(config)
    if has_adapters(model):
        raise ValueError("The model has an adapter already: merge it first, or load the adapter onto its base.")
    config.inference_mode = not is_trainable
    prepare_quantized(model, train=is_trainable)
    # transformers' own load_adapter loses a DoRA's magnitudes.
    put(model, config)
    record_base(model, model.peft_config[ADAPTER_NAME])
    load_adapter_weights(model, found.source, found.loading)
    if not is_trainable:
        model.eval().requires_grad_(False)


def no_adapter(source: str | Path) -> ValueError:
    """The error for a folder or repo without an adapter."""
    return ValueError(
        f"{str(source)!r} holds no {ADAPTER_CONFIG_NAME}: it is not an adapter. Give the folder or Hub id of one."
    )


def load_adapter_weights(
    model: PreTrainedModel, source: str | Path | None, place: dict[str, Any] | None = None
) -> None:
    """Load the weights of a checkpoint into the adapter that is on the model.

    Raises ValueError where the folder or repo has none, or weights of another adapter configuration or model.
    """
    if source is None:
        raise ValueError("source=None must be a checkpoint of the adapter: save one first, or give its folder.")
    try:
        file = find_file(source, ADAPTER_SAFE_WEIGHTS_NAME, place or {}, needed=True)
    except OSError as error:
        if is_full_disk(error):
            raise
        raise ValueError(
            f"{str(source)!r} holds no {ADAPTER_SAFE_WEIGHTS_NAME}, which an adapter's checkpoint has: give one."
        ) from error
    weights = {own_name(key.removeprefix(_PREFIX), model): value for key, value in load_file(str(file)).items()}
    name = adapter_name(model)
    wanted = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    held = {wanted[key].data_ptr(): value for key, value in weights.items() if key in wanted}
    # Of two that are tied (ensure_weight_tying) one is saved, and peft looks for both.
    weights |= {key: held[one.data_ptr()] for key, one in wanted.items() if one.data_ptr() in held}
    missing = sorted(wanted.keys() - weights.keys())
    result: Any = set_peft_model_state_dict(model, dict(weights), name)
    for names, where in ((result.unexpected_keys, "the model's adapter"), (missing, "the checkpoint")):
        if names:
            raise ValueError(
                f"The adapter in {str(source)!r} does not fit the model: {where} lacks {names[0]!r}. Use the "
                "peft_config and the base model that it was made with."
            )
