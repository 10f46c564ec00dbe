"""A model for a command, from whatever form it comes in: looked at once (`kind.look`), then built."""

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

from hub_cards.travelling.halves import HalfModelError
from hub_cards.travelling.saving import is_full_disk
from hub_cards.travelling.vocabulary import load_tokenizer
from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.published_biencoder import NO_PRESET, check_preset, recognised
from modeling_biencoder.sentence_transformers_biencoder import read_sentence_transformer
from modeling_llara import LlaraConfig, LlaraForPreTraining
from modeling_llara.prompts_llara import adapted_config, biencoder_keywords
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM

from .adapted import build_found
from .components import build_srlm, check_methods, check_used, plain_settings, refuse_idle_retriever
from .convert import biencoder_from_llara, check_ends_open
from .kind import PLACE, Found, check_plain, config_of, look, of_backbone, place_of, weights_of
from .merging import merge_adapter
from .weightless import biencoder_config, check_words


def load_biencoder(
    source: str,
    pooling: str | None = None,
    preset: str | None = None,
    check: Callable[[BiEncoderConfig], None] | None = None,
    **loading: Any,
) -> BiEncoderModel:
    """The bi-encoder of a Hub id or folder of one, of a LLaRA model, of an adapter of either, or around a backbone.

    A sentence-transformers model is one, with its pooling, layers, length and prompts; so is a published model.

    Args:
        pooling: makes a bi-encoder of a plain backbone: `last_token`, `cls` or `mean`, and normalised.
        preset: how a published model is used, by name (`PRESETS`); default: by its repo.
        check: called with the configuration before weights are read, and raises where the model cannot serve.
        loading: where the repo lies (`revision`, `token`, `cache_dir`, ...), and `trust_remote_code` for a backbone
            with code of its own; our repos need none. `base`: of an adapter, folder or Hub id of what it was made for,
            `base_revision` a branch, tag or commit of that. `dtype` and `quantization_config` as in transformers.

    Returns it in eval mode. Raises ValueError for a plain backbone without pooling, and for a pooling where the repo
    has its own.
    """
    check_preset("--preset", preset)
    fields = {} if pooling is None else {"pooling": pooling}
    try:
        found = look(source, **loading)
    except (OSError, ValueError) as error:  # sentence-transformers may have the backbone in a folder of its own
        there = os.path.isdir(source) or isinstance(error, HalfModelError)
        theirs = read_sentence_transformer(source, place_of(loading)) if there else None
        if theirs is None or not theirs.folder:
            raise
        _check_pooling(source, pooling, "sentence-transformers model", theirs)
        if check is not None:
            check(biencoder_config(source, config_of(source, loading), {**loading, "preset": preset}, fields))
        return BiEncoderModel.from_backbone(source, preset=preset, **fields, **loading).eval()
    if check is not None:
        _check(check, found, {**loading, "preset": preset}, fields)
    kind, weights = found.model_type, weights_of(loading)
    ours = kind in (BiEncoderConfig.model_type, LlaraConfig.model_type)
    theirs = None if ours else read_sentence_transformer(source, found.loading)
    if theirs is not None:
        _check_pooling(source, pooling, "sentence-transformers model", theirs)
        fields |= {**of_backbone(found, loading), **weights}
        return BiEncoderModel.from_backbone(source, preset=preset, **fields).eval()
    if not ours:
        check_plain(source, kind, BiEncoderConfig.model_type)
        known = preset or recognised(source, found.loading)
        if pooling is None and known in (None, NO_PRESET):
            raise ValueError(
                f"{source!r} is a plain {kind}, no bi-encoder: say how it is pooled with --pooling last_token, cls or "
                "mean, name the published model that it is with --preset, or make a bi-encoder of it with `lookback "
                "finetune` or `lookback convert`."
            )
        words = check_words(source, found.config, place := of_backbone(found, loading))
        fields |= {**place, **weights}
        return BiEncoderModel.from_backbone(source, tokenizer=words, preset=preset, **fields).eval()
    if preset is not None:
        raise ValueError(f"--preset={preset!r} is for a published model, and {source!r} is a {kind}: leave it out.")
    _check_pooling(source, pooling, kind)
    words = _words(found)
    if kind == BiEncoderConfig.model_type:
        return _with_words(build_found(found, **weights), words).eval()
    return _biencoder_of_llara(found, words, weights).eval()


def _check_pooling(source: str, pooling: str | None, kind: str, theirs: Any = None) -> None:
    """ValueError for a pooling in the place of the model's own; `theirs` may have none that a bi-encoder has."""
    if pooling is not None and (theirs is None or "pooling" not in theirs.refusals):
        raise ValueError(
            f"--pooling={pooling!r} is for a plain backbone, and {source!r} is a {kind}, which brings its own: leave "
            "it out."
        )


def _check(check: Any, found: Found, keywords: dict[str, Any], fields: dict[str, Any]) -> None:
    """`check` of the configuration of the bi-encoder that will be loaded, where it can be one."""
    if found.model_type != SelfRetrievalConfig.model_type:
        check(biencoder_config(found.source, found.config, {**keywords, **found.loading}, fields))


def load_as_biencoder(
    source: str, backbone: str | None = None, backbone_revision: str | None = None, **settings: Any
) -> BiEncoderModel:
    """A bi-encoder from a repo id or folder of a LLaRA model, of its LoRA, or of a plain backbone that LLaRA adapted.

    A plain backbone is one that `save_backbone` wrote, or a published checkpoint such as BAAI/LLARA-pretrain: its
    prompts are known by the special tokens of its tokenizer.

    Args:
        backbone, backbone_revision: for a LoRA, the model that it was trained on; default the one that it names.
        settings: fields of `BiEncoderConfig`, and where the source's repo lies (`revision`, `token`, ...).

    Raises ValueError for a model that LLaRA did not adapt, and for a LoRA whose backbone is not known.
    """
    found = look(source, backbone, backbone_revision, **place_of(settings))
    fields = {name: value for name, value in settings.items() if name not in PLACE}
    if found.model_type == LlaraConfig.model_type:
        biencoder_config(source, found.config, {}, fields)  # what does not fit is said before weights are read
        return _biencoder_of_llara(found, None, {}, **fields)
    if found.adapter is not None:
        raise ValueError(
            f"{source!r} is an adapter of a {found.model_type!r} model and must be one of a LLaRA model to be "
            "converted: merge it into its base with `lookback merge`."
        )
    check_plain(source, found.model_type, LlaraConfig.model_type)
    tokenizer = load_tokenizer(source, found.loading)
    config = adapted_config(tokenizer, found.config)
    if config is None:
        raise ValueError(
            f"{source!r} is no LLaRA model and its tokenizer has no special tokens of LLaRA's prompts: adapt it with "
            "`lookback pretrain`, or fine-tune it as it is with `lookback finetune`."
        )
    check_ends_open(tokenizer)
    fields = {**biencoder_keywords(config), **fields}
    BiEncoderConfig(text_config=found.config, **fields)
    return BiEncoderModel.from_backbone(source, tokenizer=tokenizer, **found.loading, **fields)


def _biencoder_of_llara(found: Found, tokenizer: Any, weights: dict[str, Any], **fields: Any) -> BiEncoderModel:
    llara = _with_words(build_found(found, **weights), tokenizer)
    return biencoder_from_llara(llara if found.adapter is None else merge_adapter(llara), **fields)


def load_llara(source: str, **loading: Any) -> LlaraForPreTraining:
    """The LLaRA model of a Hub id or folder, or of an adapter's.

    Raises ValueError for another kind of model, and where there is none.
    """
    try:
        found = look(source, **loading)
    except OSError as error:
        if is_full_disk(error):
            raise
        raise ValueError(f"--model={source!r} is no folder or Hub repo of a model: {error}") from error
    if found.model_type != LlaraConfig.model_type:
        raise ValueError(
            f"--model={source!r} is of type {found.model_type!r} and must be a LLaRA model, with the prompts that are "
            f"read here: take one, such as `lookback pretrain --model {source} --train_data ...` makes of a decoder."
        )
    words = _words(found)
    return _with_words(build_found(found, **weights_of(loading)), words)


def load_srlm(
    source: str,
    settings: dict[str, Any],
    retriever: str | None = None,
    retriever_revision: str | None = None,
    retriever_preset: str | None = None,
    retriever_base: str | None = None,
    methods: Sequence[str] = (),
    of_blocks: Sequence[str] = (),
    check: Callable[[SelfRetrievalConfig, Any], None] | None = None,
    plain: Callable[[Any, dict[str, Any]], dict[str, Any]] = plain_settings,
    **loading: Any,
) -> SelfRetrievalLM:
    """The SelfRetrievalLM of a Hub id or folder, of its adapter, too; a plain causal LM is wrapped into one.

    Args:
        settings: of [`SelfRetrievalConfig`]; what is not given is that of the repo, or fits the plain LM's positions.
        retriever: Hub id or folder of a bi-encoder, for a plain LM and the method 'dense'.
        retriever_revision: branch, tag or commit of its repo.
        retriever_preset: how a published retriever is used, by name; default: by its repo.
        retriever_base: of a retriever that is an adapter, folder or Hub id of the model that it was made for.
        methods: retrieval methods, beside that of the settings, that the model shall serve for.
        of_blocks: settings of blocks that share a window, which are refused with `reuse_states`.
        check: called before weights are read with the configuration and the tokenizer (None where that comes with the
            weights: of an adapter, in a GGUF file), and raises where the model cannot serve.
        plain: gives the settings of a plain LM, of its configuration and the settings; those win.
        loading: where the LM's repo lies (`revision`, `token`, `cache_dir`, ...), and `trust_remote_code`; what does
            not belong to one repo holds for the retriever, too, as does `dtype`, the type of the weights.

    Raises ValueError, before weights are read, for a retriever where the repo brings its own, for settings that do
    not fit the model, and for one of the methods that needs a retriever where there is none.
    """
    found = look(source, **loading)
    of_retriever: dict[str, Any] = {"retriever_revision": retriever_revision, "retriever_preset": retriever_preset,
                                    "retriever_base": retriever_base}  # fmt: skip
    if found.model_type != SelfRetrievalConfig.model_type:
        check_plain(source, found.model_type, SelfRetrievalConfig.model_type)
        place = of_backbone(found, loading)
        complete = {**plain(found.config, settings), **settings}
        if retriever is not None:
            complete = {"retrieval_method": "dense", "retriever": retriever, **complete}
        fields = {name: value for name, value in complete.items() if name != "retriever"}
        wanted = SelfRetrievalConfig(text_config=found.config, **{"retrieval_method": "bm25", **fields})
        check_used(wanted, settings, of_blocks)
        check_methods(wanted, methods, retriever is not None)
        refuse_idle_retriever(retriever, methods)
        words = check_words(source, found.config, place)
        if check is not None:
            check(wanted, words)
        return build_srlm(source, None, **of_retriever, **place, **complete, **weights_of(loading))
    on_plain_lm = found.base is not None and found.base.model_type != found.model_type
    if retriever is not None and not (on_plain_lm and found.config.retriever_config is not None):
        raise ValueError(
            f"--retriever={retriever!r} is for a plain causal LM, and {source!r} is a SelfRetrievalLM, which brings "
            "its own: leave it out."
        )
    given: dict[str, Any] = {} if retriever is None else {"retriever": retriever, **of_retriever}
    wanted = copy.deepcopy(found.config)
    for name, value in settings.items():
        setattr(wanted, name, value)
    check_used(wanted, settings, of_blocks)
    check_methods(wanted, methods, retriever is not None or wanted.retriever_config is not None)
    words = _words(found)
    if check is not None:
        check(wanted, words)
    loaded = _with_words(build_found(found, **given, **weights_of(loading)), words)
    for name, value in settings.items():
        setattr(loaded.config, name, value)
    return loaded


def _words(found: Found) -> Any:
    """The tokenizer of a complete model, looked at before the weights; an adapter's comes with the adapter."""
    return None if found.adapter is not None else check_words(found.source, found.config, found.loading)


def _with_words(model: Any, tokenizer: Any) -> Any:
    """The model with the tokenizer that was looked at already."""
    if tokenizer is not None:
        model.tokenizer = tokenizer
    return model
