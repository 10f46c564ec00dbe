"""A model from an adapter's folder alone: its base, loaded or built as for the training, and the adapter on it."""

from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME as ADAPTER_CONFIG_NAME
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import CONFIG_NAME, cached_file

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_llara import LlaraConfig, LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM

from .adapters import load_adapter, load_peft_config
from .convert import build_biencoder
from .kind import model_type

FAMILIES: dict[str, Any] = {
    kind.config_class.model_type: kind for kind in (BiEncoderModel, LlaraForPreTraining, SelfRetrievalLM)
}
# Settings that decide which weights a LLaRA model has; its prompts' token ids follow from them and the tokenizer.
_LLARA_SETTINGS = (
    "num_summary_tokens", "num_predict_tokens", "bow_loss_weight", "ar_loss_weight", "loss_weighting",
    "predict_sees_summarize",
)  # fmt: skip


def is_adapter(source: str | Path, revision: str | None = None) -> bool:
    """Whether a folder or Hub repo holds an adapter."""
    return _has_file(source, ADAPTER_CONFIG_NAME, revision)


def load_adapted(
    source: str | Path,
    base: str | Path | None = None,
    revision: str | None = None,
    is_trainable: bool = False,
    base_revision: str | None = None,
    **settings: Any,
) -> Any:
    """The model of any of our families that an adapter was trained on, with the adapter on it.

    Where the adapter was trained on a plain backbone, no repo of the base exists: it is built again, with the
    configuration that lies in the adapter's folder.

    Args:
        source: folder or Hub id of the adapter; `revision` is its branch, tag or commit.
        base: folder or Hub id of the base model; default the one that the adapter names, at the commit it names.
        is_trainable: to train the adapter further; otherwise the model is in eval mode.
        base_revision: branch, tag or commit of the base; default the commit that the adapter names with it.
        settings: loading keywords for the base, such as `dtype`, and settings that replace those of the folder.

    Raises:
        ValueError: for a folder without an adapter, an adapter that names no base, or another base than its own.
    """
    source, peft_config = str(source), load_peft_config(source, revision)
    if base is None and not peft_config.base_model_name_or_path:
        raise ValueError(
            f"The adapter {source!r} does not name the model that it was trained on (one in memory?): pass base, a "
            "folder or Hub id (--base, or --model where there is an --adapter)."
        )
    if base is None or str(base) == peft_config.base_model_name_or_path:
        base_revision = base_revision or peft_config.revision
    if base_revision is not None:
        settings = {"revision": base_revision, **settings}
    base = str(base or peft_config.base_model_name_or_path)
    config = _configuration(source, revision, base, settings)
    model = _base_model(base, config, settings)
    if _has_file(source, TOKENIZER_CONFIG_FILE, revision):
        model.tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    _check_base(model.config, config, source, base)
    load_adapter(model, source, is_trainable, revision)
    return model


def _configuration(source: str, revision: str | None, base: str, settings: dict[str, Any]) -> PreTrainedConfig:
    """The configuration in the adapter's folder, else that of a base that is complete."""
    if _has_file(source, CONFIG_NAME, revision):
        config = AutoConfig.from_pretrained(source, revision=revision)
    else:
        config = AutoConfig.from_pretrained(base, revision=settings.get("revision"))
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"The adapter {source!r} is of a {config.model_type!r} model, not of {', '.join(FAMILIES)}: load it with "
            "transformers or peft."
        )
    return config


def _base_model(base: str, config: Any, settings: dict[str, Any]) -> Any:
    family = FAMILIES[config.model_type]
    if family is BiEncoderModel:
        names = [name for name in BiEncoderConfig.keywords() if name != "text_config"]
        settings = {**{name: getattr(config, name) for name in names}, **settings}
    if model_type(base, settings) == config.model_type:
        return family.from_pretrained(base, **settings)
    if family is BiEncoderModel:
        return build_biencoder(base, **settings)
    if family is LlaraForPreTraining:
        return family.from_backbone(base, **{**{name: getattr(config, name) for name in _LLARA_SETTINGS}, **settings})
    raise ValueError(
        f"The adapter is of a self-retrieval LM, and {base!r} is a language model alone, without its retriever: save "
        "the self-retrieval LM (save_pretrained) and pass its folder as base."
    )


def _check_base(actual: Any, wanted: Any, source: str, base: str) -> None:
    """ValueError where the base has another size, vocabulary or prompts than the model that was trained."""
    pairs = {
        name: (getattr(actual.text_config, name, None), getattr(wanted.text_config, name, None))
        for name in ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")
    }
    if isinstance(wanted, LlaraConfig):
        pairs["predict_prompt_ids"] = (actual.predict_prompt_ids, wanted.predict_prompt_ids)
    for name, (is_, was) in pairs.items():
        if is_ != was:
            raise ValueError(
                f"The adapter {source!r} was not trained on {base!r}: {name} is {is_!r} there and was {was!r} in the "
                "training. Pass the right base."
            )


def _has_file(source: str | Path, name: str, revision: str | None) -> bool:
    found = cached_file(
        str(source), name, revision=revision,
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    return found is not None
