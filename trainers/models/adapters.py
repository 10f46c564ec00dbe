"""PEFT adapters inside our models: `add_adapter` keeps the class, its code and its loading what they are."""

import copy
from pathlib import Path
from typing import Any

from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftType,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG_NAME
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, logging

from hub_cards.travelling.checks import check_bool
from hub_cards.travelling.saving import is_full_disk
from modeling_srlm import SelfRetrievalLM

from .bases import check_added_rows, fit_names, own_name, record_base
from .kind import Found, find_adapter, find_file, place_of
from .quantization import prepare_quantized

ADAPTER_NAME = "default"
# Those that live in the layers of the model alone (VeRA and prompts do not) and train by gradients alone (AdaLoRA does
# not); each is reloaded and merged in the tests.
ADAPTER_KINDS = (
    PeftType.LORA, PeftType.IA3, PeftType.LOHA, PeftType.LOKR, PeftType.OFT, PeftType.BOFT,
    PeftType.HRA, PeftType.FOURIERFT, PeftType.LN_TUNING, PeftType.TRAINABLE_TOKENS,
)  # fmt: skip
_PREFIX = "base_model.model."

logger = logging.get_logger(__name__)


def adapter_name(model: PreTrainedModel) -> str:
    """The name of the adapter on the model; ValueError where there are several, as one is trained and saved."""
    if len(names := list(model.peft_config)) > 1:
        raise ValueError(
            f"The model has the adapters {', '.join(map(repr, names))}, and one is trained and saved here: take the "
            f"others out with model.delete_adapter({names[1]!r})."
        )
    return names[0]


def take_adapter(model: PreTrainedModel, trains: bool = True) -> None:
    """Check the adapter that a model came with, and name in it what it was made for, where nothing is named.

    Raises ValueError for several adapters, for a kind that is not one of ADAPTER_KINDS, for one that was loaded for
    use where it is to train (`trains`), and where tokens were added to the base whose rows the adapter would not save.
    """
    config: Any = model.peft_config[adapter_name(model)]
    _check_kind(config)
    config.task_type = config.task_type or _task_type(model)
    if not config.base_model_name_or_path:
        record_base(model, config)
    if trains and not any(value.requires_grad for value in model.parameters()):
        raise ValueError(
            "The adapter on the model was loaded for use, and nothing in it trains: load it with load_adapted(..., "
            "is_trainable=True), or give a command its base as --model and the adapter as --adapter."
        )
    check_added_rows(model, config)
    if not config.base_model_name_or_path:
        logger.warning(
            "The adapter will not name its base, which was made in memory: save that with save_pretrained, and give "
            "its folder as base= (--base) where the adapter is loaded."
        )


def check_model(model: object) -> None:
    """TypeError for what is no model of transformers."""
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"model is a {type(model).__name__} and must be a model of transformers, such as ours: load one."
        )


def _check_modules_to_save(model: PreTrainedModel, config: Any) -> None:
    """ValueError for a name that no module ends in: peft would pass over it without a word."""
    modules = [name for name, _ in model.named_modules()]
    for wanted in getattr(config, "modules_to_save", None) or ():
        if not any(f".{name}".endswith(f".{wanted}") for name in modules):
            raise ValueError(
                f"modules_to_save names {wanted!r}, and the model has no such module: see named_modules()."
            )


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
            its head; without a `task_type` it is CAUSAL_LM for a SelfRetrievalLM, else FEATURE_EXTRACTION: the name
            of peft's AutoPeftModelFor... class that loads it.
        new_token_ids: tokens that the backbone never saw. Their embedding rows (and head rows, where the head is not
            tied) train too, unless the configuration says which rows or whole matrices do.
        trained_modules: names of modules that a LoRA trains whole and saves, beside those of the configuration.

    Raises TypeError for what is no PeftConfig, ValueError for a kind of adapter that is not one of ADAPTER_KINDS,
    for `modules_to_save` that are not there, and for a model that has an adapter already.
    """
    if not isinstance(peft_config, PeftConfig):
        raise TypeError(
            f"peft_config is a {type(peft_config).__name__} and must be a PeftConfig: pass peft.LoraConfig()."
        )
    check_model(model)
    if has_adapters(model):
        raise ValueError("The model has an adapter already: merge it first, or leave peft_config out to train it on.")
    _check_kind(peft_config)
    _check_modules_to_save(model, peft_config)
    peft_config = copy.deepcopy(peft_config)
    peft_config.task_type = peft_config.task_type or _task_type(model)
    if isinstance(peft_config, LoraConfig):
        if peft_config.target_modules is None:
            peft_config.target_modules = "all-linear"
            if peft_config.exclude_modules is None:  # a nested retriever is frozen: an adapter in it gets no gradient
                peft_config.exclude_modules = rf"(?!({model.base_model_prefix})(\.|$)).*"
        if new_token_ids and not peft_config.trainable_token_indices and not peft_config.modules_to_save:
            peft_config.trainable_token_indices = _token_rows(model, new_token_ids)
        if trained_modules:
            peft_config.modules_to_save = [*(peft_config.modules_to_save or ()), *trained_modules]
    prepare_quantized(model)
    try:
        model.add_adapter(peft_config, ADAPTER_NAME)
    except (IndexError, TypeError) as error:
        raise ValueError(
            f"peft cannot put this {type(peft_config).__name__} on the model: {error}. Give trainable_token_indices "
            "within the vocabulary, and leave embeddings whose rows train (LLaRA's do) out of target_modules."
        ) from error
    record_base(model, model.peft_config[ADAPTER_NAME])


def _task_type(model: PreTrainedModel) -> str:
    return "CAUSAL_LM" if isinstance(model, SelfRetrievalLM) else "FEATURE_EXTRACTION"


def _check_kind(peft_config: PeftConfig) -> None:
    if peft_config.peft_type not in ADAPTER_KINDS:
        raise ValueError(
            f"A {type(peft_config).__name__} cannot be an adapter here: parts of it lie outside the model's layers "
            "or change by steps of their own, which training and checkpoints would leave out. Use one of "
            f"{', '.join(kind.value for kind in ADAPTER_KINDS)}."
        )


def _token_rows(model: PreTrainedModel, token_ids: list[int]) -> dict[str, list[int]]:
    """{name of the module: token ids} of the embeddings, and of the head if it has rows of its own."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    rows = {names[embeddings]: list(token_ids)}
    if head is not None and head.weight is not embeddings.weight:
        rows[names[head]] = list(token_ids)
    return rows


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
    _check_kind(config)
    if has_adapters(model):
        raise ValueError("The model has an adapter already: merge it first, or load the adapter onto its base.")
    config.inference_mode = not is_trainable
    prepare_quantized(model, train=is_trainable)
    # transformers' own load_adapter loses a DoRA's magnitudes.
    model.add_adapter(config, ADAPTER_NAME)
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
    missing = sorted(wanted.keys() - weights.keys())
    result: Any = set_peft_model_state_dict(model, dict(weights), name)
    for names, where in ((result.unexpected_keys, "the model's adapter"), (missing, "the checkpoint")):
        if names:
            raise ValueError(
                f"The adapter in {str(source)!r} does not fit the model: {where} lacks {names[0]!r}. Use the "
                "peft_config and the base model that it was made with."
            )


def check_not_wrapped(model: object) -> None:
    """TypeError for a model inside peft's own wrapper, which hides what the model is."""
    if isinstance(model, PeftModel):
        raise TypeError("The model is wrapped by peft: pass the model itself, and the adapter as peft_config.")
