"""A model of our families as it was found: complete, or an adapter on its base, loaded or built as in the training."""

from pathlib import Path
from typing import Any

from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from hub_cards.travelling.checks import checked
from hub_cards.travelling.loading import split_keywords
from hub_cards.travelling.vocabulary import load_tokenizer
from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.published_biencoder import NO_PRESET, recognised
from modeling_llara import LlaraConfig, LlaraForPreTraining
from modeling_llara.backbone_llara import load_backbone
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM

from .bases import grow
from .components import build_srlm
from .convert import build_biencoder
from .kind import Found, NotAnAdapterError, find_file, look, other_repo, place_of, refuse_preset
from .saved_adapters import no_adapter, put_adapter

FAMILIES: dict[str, Any] = {
    kind.config_class.model_type: kind for kind in (BiEncoderModel, LlaraForPreTraining, SelfRetrievalLM)
}
# A self-retrieval LM's configuration beside its settings: what follows from its language model and its retriever.
_PARTS = {"sub_configs", "text_config", "retriever_config", "retriever_settings"}
# Settings that decide which weights a LLaRA model has; its prompts' token ids follow from them and the tokenizer.
_LLARA_SETTINGS = (
    "num_summary_tokens", "num_predict_tokens", "bow_loss_weight", "ar_loss_weight", "loss_weighting",
    "predict_sees_summarize",
)  # fmt: skip


@checked
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
        settings: loading keywords for the base, such as `dtype` (of these `token`, `cache_dir`, `trust_remote_code`
            and what else does not belong to one repo hold for the adapter, too), and settings that replace those of
            the folder; also `retriever`, for a self-retrieval LM that was built on a plain LM and a nested retriever.

    Raises:
        ValueError: for a folder without an adapter, an adapter that names no base, or another base than its own.
    """
    place = place_of(settings)
    of_base = {name: value for name, value in place.items() if name != "revision"}
    try:
        found = look(source, base, base_revision, of_base, revision=revision, **other_repo(place))
    except NotAnAdapterError as error:
        raise no_adapter(source) from error
    if found.adapter is None:
        raise no_adapter(source)
    return build_found(found, is_trainable, **settings)


def build_found(found: Found, is_trainable: bool = False, **settings: Any) -> Any:
    """The model of one of our families that `found` is, with the adapter on its base.

    Args:
        is_trainable: to train an adapter further; a complete model comes as `from_pretrained` gives it.
        settings: keywords of `from_pretrained` beside those of `found`.

    Raises ValueError for another kind of model, and for an adapter of another base than `found.base`.
    """
    if found.model_type not in FAMILIES and found.base is not None:
        return _on_plain(found, found.base, is_trainable, settings)
    if found.model_type not in FAMILIES:
        raise ValueError(
            f"The model {found.source!r} is of type {found.model_type!r}, not one of {', '.join(FAMILIES)}: load it "
            "with transformers or peft."
        )
    refuse_preset(found.source, settings)
    if found.base is None:
        return FAMILIES[found.model_type].from_pretrained(found.source, **{**settings, **found.loading})
    own = find_file(found.source, TOKENIZER_CONFIG_FILE, found.loading) is not None
    tokenizer = load_tokenizer(found.source, found.loading) if own else None  # before weights are read
    model = _base_model(found, found.base, settings)
    grow(model, found.adapter, found.config.text_config.vocab_size)
    _check_base(model.config, found.config, found.source, found.base.source)
    if tokenizer is not None:
        model.tokenizer = tokenizer
    put_adapter(model, found, is_trainable)
    return model


def _on_plain(found: Found, base: Found, is_trainable: bool, settings: dict[str, Any]) -> BiEncoderModel:
    """A bi-encoder on a plain backbone, under the adapter that another library trained on that (RepLLaMA's).

    Raises ValueError where neither the settings nor a preset say how it embeds.
    """
    preset = settings.get("preset") or recognised(found.source, found.loading)
    if preset in (None, NO_PRESET) and "pooling" not in settings:
        raise ValueError(
            f"The adapter {found.source!r} is of type {found.model_type!r}, not one of {', '.join(FAMILIES)}: give "
            "preset=... or pooling=... for a bi-encoder, or load it with transformers or peft."
        )
    fields = {name: value for name, value in settings.items() if name not in ("preset", *base.loading)}
    model = BiEncoderModel.from_backbone(base.source, preset=preset, **base.loading, **fields)
    if find_file(found.source, TOKENIZER_CONFIG_FILE, found.loading) is not None:
        model.tokenizer = load_tokenizer(found.source, found.loading)
    put_adapter(model, found, is_trainable)
    return model


def _base_model(found: Found, base: Found, settings: dict[str, Any]) -> Any:
    family, settings = FAMILIES[found.model_type], {**settings, **base.loading}
    if settings.get("retriever") is not None and not (
        family is SelfRetrievalLM and base.model_type != found.model_type
    ):
        raise ValueError(
            f"retriever={settings['retriever']!r} is for an adapter of a self-retrieval LM on a plain LM, "
            f"and the base of {found.source!r} is a complete {base.model_type}: leave it out."
        )
    if family is BiEncoderModel:
        names = [name for name in BiEncoderConfig.keywords() if name != "text_config"]
        settings = {**{name: getattr(found.config, name) for name in names}, **settings}
    if base.model_type == found.model_type:
        return family.from_pretrained(base.source, **settings)
    if family is BiEncoderModel:
        return build_biencoder(base.source, kind=base.model_type, **settings)
    if family is LlaraForPreTraining:
        return _llara_base(found, base, settings)
    return _self_retrieval_base(found, base, settings)


def _llara_base(found: Found, base: Found, settings: dict[str, Any]) -> LlaraForPreTraining:
    """The LLaRA model on a plain backbone, its prompts as in the training, which may have had more tokens before.

    Where the adapter brings no rows of the prompts' tokens, they are made again.
    """
    given, loading = split_keywords(settings, LlaraConfig.keywords(), "load_adapted")
    if find_file(found.source, TOKENIZER_CONFIG_FILE, found.loading) is not None:
        decoder = load_backbone(base.source, **loading)
        prompts = [*found.config.summarize_token_ids, *found.config.predict_token_ids]
        if grow(decoder, found.adapter, found.config.text_config.vocab_size, prompts, "backbone."):
            tokenizer = load_tokenizer(found.source, found.loading)
            fields = {name: getattr(found.config, name) for name in LlaraConfig.keywords() if name != "text_config"}
            return LlaraForPreTraining.from_backbone(decoder, tokenizer, **{**fields, **given})
    fields = {name: getattr(found.config, name) for name in _LLARA_SETTINGS}
    return LlaraForPreTraining.from_backbone(base.source, **{**fields, **settings})


def _self_retrieval_base(found: Found, base: Found, settings: dict[str, Any]) -> SelfRetrievalLM:
    """The self-retrieval LM on a plain language model; a nested retriever is none of the LM's and has to be given."""
    names = SelfRetrievalConfig.__annotations__.keys() - _PARTS
    fields = {name: getattr(found.config, name) for name in names}
    place = place_of(settings)
    components = {
        key: settings[key]
        for key in ("retriever", "retriever_revision", "retriever_preset", "retriever_base", "retriever_kwargs")
        if key in settings
    }
    if found.config.retriever_config is not None and components.get("retriever") is None:
        raise ValueError(
            f"The adapter {found.source!r} is of a self-retrieval LM, and {base.source!r} is a language model alone, "
            "without its retriever: give the retriever as well (retriever=, --retriever), or save the self-retrieval "
            "LM (save_pretrained) and pass its folder as base."
        )
    fields.update({key: value for key, value in settings.items() if key in names})
    loading = {key: value for key, value in settings.items() if key not in {*names, *place, *components}}
    dtype = {name: loading[name] for name in ("dtype", "torch_dtype") if name in loading}  # of both parts
    if components.get("retriever") is not None:
        components["retriever_kwargs"] = {**dtype, **(components.get("retriever_kwargs") or {})}
    model = build_srlm(base.source, model_kwargs=loading, **place, **components, **fields)
    if model.config.retriever_settings != found.config.retriever_settings:
        raise ValueError(
            f"The retriever {components.get('retriever')!r} has the settings {model.config.retriever_settings}, and "
            f"that of the training had {found.config.retriever_settings}: give that one."
        )
    return model


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
