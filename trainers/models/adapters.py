"""PEFT adapters inside our models: `add_adapter` keeps the class, its code and its loading what they are."""

import copy
import itertools
import re
import warnings
from typing import Any

from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftType,
)
from transformers import PreTrainedModel
from transformers.utils import logging

from hub_cards.travelling.checks import nearest
from modeling_srlm import SelfRetrievalLM

from .bases import check_added_rows, is_whole, record_base
from .quantization import prepare_quantized

ADAPTER_NAME = "default"
# Those that live in the layers of the model alone (VeRA and prompts do not) and train by gradients alone (AdaLoRA does
# not); each is reloaded and merged in the tests.
ADAPTER_KINDS = (
    PeftType.LORA, PeftType.IA3, PeftType.LOHA, PeftType.LOKR, PeftType.OFT, PeftType.BOFT,
    PeftType.HRA, PeftType.FOURIERFT, PeftType.LN_TUNING, PeftType.TRAINABLE_TOKENS,
)  # fmt: skip

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
    check_kind(config)
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


def _check_names(model: PreTrainedModel, config: Any) -> None:
    """ValueError for names that no module ends in, which peft would pass over without a word (0.21).

    Of `target_modules`, which may be a list for models of several kinds, one has to be there; the others are said.
    """
    modules = [name for name, _ in model.named_modules() if name]
    for field in ("target_modules", "modules_to_save"):
        names = getattr(config, field, None) or ()
        if isinstance(names, str):  # a pattern, or all-linear
            if names != "all-linear" and not any(re.fullmatch(names, name) for name in modules):
                raise ValueError(
                    f"{field}={names!r} must fit the whole name of a module, such as {modules[-1]!r}, and fits none: "
                    "see named_modules()."
                )
            continue
        absent = [one for one in sorted(names) if not any(f".{name}".endswith(f".{one}") for name in modules)]
        if not absent:
            continue
        ends = {name.rpartition(".")[2] for name in modules}
        message = (
            f"{field} names {absent[0]!r}, and the model has no such module: did you mean "
            f"{nearest(absent[0], sorted(ends))}? See named_modules()."
        )
        if field == "modules_to_save" or len(absent) == len(names):
            raise ValueError(message)
        logger.warning_once(message)


def _check_rows(model: PreTrainedModel, config: Any) -> None:
    """ValueError for rows of embeddings that are not there."""
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    given = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or ()
    for index in itertools.chain.from_iterable(given.values() if isinstance(given, dict) else [given]):
        if not 0 <= index < rows:
            raise ValueError(
                f"{type(config).__name__} trains the row of token {index}, and the embeddings have {rows} rows: give "
                "trainable_token_indices within the vocabulary."
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
            tied) train too, unless the configuration says which rows do, or trains the embeddings whole.
        trained_modules: names of modules that a LoRA trains whole and saves, beside those of the configuration.

    Raises TypeError for what is no PeftConfig, ValueError for a kind of adapter that is not one of ADAPTER_KINDS,
    for `target_modules` and `modules_to_save` that are not there, and for a model that has an adapter already.
    """
    if not isinstance(peft_config, PeftConfig):
        raise TypeError(
            f"peft_config is a {type(peft_config).__name__} and must be a PeftConfig: pass peft.LoraConfig()."
        )
    check_model(model)
    if has_adapters(model):
        raise ValueError("The model has an adapter already: merge it first, or leave peft_config out to train it on.")
    check_kind(peft_config)
    _check_names(model, peft_config)
    _check_rows(model, peft_config)
    peft_config = copy.deepcopy(peft_config)
    peft_config.task_type = peft_config.task_type or _task_type(model)
    if isinstance(peft_config, LoraConfig):
        if peft_config.target_modules is None:
            peft_config.target_modules = "all-linear"
            if peft_config.exclude_modules is None:  # a nested retriever is frozen: an adapter in it gets no gradient
                peft_config.exclude_modules = rf"(?!({model.base_model_prefix})(\.|$)).*"
        if new_token_ids and not peft_config.trainable_token_indices:
            peft_config.trainable_token_indices = _token_rows(model, new_token_ids, peft_config)
        if trained_modules:
            peft_config.modules_to_save = [*(peft_config.modules_to_save or ()), *trained_modules]
    prepare_quantized(model)
    try:
        put(model, peft_config)
    except (IndexError, TypeError) as error:
        raise ValueError(
            f"peft cannot put this {type(peft_config).__name__} on the model: {error}. Give trainable_token_indices "
            "within the vocabulary, and leave embeddings whose rows train (LLaRA's do) out of target_modules."
        ) from error
    record_base(model, model.peft_config[ADAPTER_NAME])


def put(model: PreTrainedModel, peft_config: PeftConfig) -> None:
    """`model.add_adapter`, without peft's warning that our pattern, of what lies outside, excludes nothing here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You have passed exclude_modules=.* but no modules were excluded")
        model.add_adapter(peft_config, ADAPTER_NAME)


def _task_type(model: PreTrainedModel) -> str:
    return "CAUSAL_LM" if isinstance(model, SelfRetrievalLM) else "FEATURE_EXTRACTION"


def check_kind(peft_config: PeftConfig) -> None:
    if peft_config.peft_type not in ADAPTER_KINDS:
        raise ValueError(
            f"A {type(peft_config).__name__} cannot be an adapter here: parts of it lie outside the model's layers "
            "or change by steps of their own, which training and checkpoints would leave out. Use one of "
            f"{', '.join(kind.value for kind in ADAPTER_KINDS)}."
        )
    if getattr(peft_config, "alora_invocation_tokens", None):
        raise ValueError(
            "alora_invocation_tokens: an activated LoRA is switched on by peft's own forward alone, and would train "
            "nothing here: leave it out."
        )


def _token_rows(model: PreTrainedModel, token_ids: list[int], peft_config: Any) -> dict[str, list[int]] | None:
    """{name of the module: token ids} of the embeddings, and of the head if it has rows of its own.

    None where the embeddings train whole; without a head that does so. ValueError for such a head that is tied to
    embeddings that do not: peft cannot train rows of these alone.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    if is_whole(peft_config, names[embeddings]):
        return None
    rows = {names[embeddings]: list(token_ids)}
    tied = head is not None and head.weight is embeddings.weight
    if head is None or (tied and not is_whole(peft_config, names[head])):
        return rows
    if tied:
        raise ValueError(
            f"modules_to_save names {names[head]!r} without the embeddings, which are tied to it, and then the rows "
            f"of new tokens would not train: name {names[embeddings]!r} as well."
        )
    return rows if is_whole(peft_config, names[head]) else {**rows, names[head]: list(token_ids)}


def check_not_wrapped(model: object) -> None:
    """TypeError for a model inside peft's own wrapper, which hides what the model is."""
    if isinstance(model, PeftModel):
        raise TypeError("The model is wrapped by peft: pass the model itself, and the adapter as peft_config.")
