"""A self-retrieval LM put together from a language model, in whatever form it comes, and its retriever."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hub_cards.travelling.backbones import OF_BASE, base_keywords
from modeling_biencoder.published_biencoder import check_preset
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM
from modeling_srlm.configuration_srlm import RETRIEVER_METHODS

from .kind import PLACE, ModelSource, other_repo, place_of

# Settings that count with `reuse_states` alone.
OF_KEPT_STATES = ("num_sink_tokens", "store_place", "store_dtype", "store_limit")
# Of an option of that name.
ADD_BOS = {"help": "Put BOS before every input, for models trained so (Llama, Gemma).", "nargs": "?", "const": True}


def build_srlm(
    backbone: ModelSource,
    tokenizer: PreTrainedTokenizerBase | None = None,
    retriever_revision: str | None = None,
    retriever_preset: str | None = None,
    retriever_base: str | None = None,
    model_kwargs: dict[str, Any] | None = None,
    retriever_kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> SelfRetrievalLM:
    """A new SelfRetrievalLM on a causal LM, by its retriever or by BM25 unless the settings say otherwise.

    Args:
        retriever_preset: how a published retriever is used, by name; default: by its repo.
        retriever_base: of a retriever that is an adapter, folder or Hub id of the model that it was made for.
        settings: keywords of `SelfRetrievalLM.from_components`; for a backbone to load also where its repo lies
            (`revision`, `token`, ...) and `quantization_config`. What does not belong to one repo holds for that of
            the retriever, too, whose `revision` is `retriever_revision`.
    """
    check_preset("retriever_preset", retriever_preset)
    model_kwargs = {**(model_kwargs or {}), **base_keywords(settings)}  # of a language model that is an adapter
    own = {name: value for name, value in settings.items() if name not in (*PLACE, *OF_BASE, "quantization_config")}
    place, quantized = place_of(settings), settings.get("quantization_config")
    loading = place if quantized is None else {"quantization_config": quantized, **place}
    if not isinstance(backbone, str | Path):  # of no use, and some are for the retriever as well
        loading = {name: value for name, value in loading.items() if name not in other_repo(place)}
    beside = other_repo(place) if isinstance(settings.get("retriever"), str | Path) else {}
    said = {"revision": retriever_revision, "preset": retriever_preset, "base": retriever_base}
    pin = {name: value for name, value in said.items() if value is not None}
    return SelfRetrievalLM.from_components(
        str(backbone) if isinstance(backbone, Path) else backbone,
        tokenizer,
        model_kwargs={**model_kwargs, **loading},
        retriever_kwargs={**beside, **(retriever_kwargs or {}), **pin},
        **{"retrieval_method": default_method(own), **own},
    )


def default_method(settings: dict[str, Any]) -> str:
    """The retrieval method of a new model where none is said: by its retriever, if it has one."""
    return "bm25" if settings.get("retriever") is None else "dense"


def check_kept(config: SelfRetrievalConfig, given: Mapping[str, Any]) -> None:
    """ValueError for a setting of `reuse_states` among those that are given and not None, where nothing is reused."""
    for name in OF_KEPT_STATES if not config.reuse_states else ():
        if given.get(name) is not None:
            raise ValueError(
                f"--{name} has no meaning without --reuse_states, as no keys and values are kept: "
                "give that too, or leave it out."
            )


def check_used(config: SelfRetrievalConfig, given: Mapping[str, Any], of_blocks: Sequence[str] = ()) -> None:
    """As `check_kept`; with `reuse_states` also for the settings `of_blocks`, where each chunk has its own window."""
    check_kept(config, given)
    for name in of_blocks if config.reuse_states else ():
        if given.get(name) is not None:
            raise ValueError(
                f"--{name}={given[name]} has no meaning with reuse_states, where each chunk has the window before it: "
                "leave it out, or give --reuse_states false."
            )


def check_methods(config: SelfRetrievalConfig, methods: Sequence[str], has_retriever: bool) -> None:
    """`config.check()` as it is and under each method; ValueError, too, as `check_retriever` says."""
    config.check()
    for method in methods:
        config.retrieval_method = method
        config.check()
        check_retriever(method, has_retriever)


def check_retriever(method: str, has_retriever: bool) -> None:
    """ValueError for a method that needs a retriever where there is none."""
    if method in RETRIEVER_METHODS and not has_retriever:
        raise ValueError(f"The method {method!r} needs a retriever and the model has none: give one, or leave it out.")


def refuse_idle_retriever(retriever: str | None, methods: Sequence[str]) -> None:
    """ValueError for the retriever of a plain LM that none of the methods asks."""
    if retriever is not None and methods and not set(methods) & set(RETRIEVER_METHODS):
        raise ValueError(
            f"--retriever={retriever!r} has no meaning for the methods {', '.join(methods)}: name "
            f"{' or '.join(RETRIEVER_METHODS)} among them, or leave it out."
        )


def max_positions(config: Any) -> int:
    """Positions of a causal LM; families without a limit of their own (ALiBi's, such as BLOOM) name none."""
    return getattr(config, "max_position_embeddings", 8192)


def plain_settings(config: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Settings for a plain LM: a quarter of its positions as the window, half of the window scored at once.

    With kept states a key costs no reading, and 8 were better than 4 on every text that was tried: so many are taken
    where the positions hold them.
    """
    window = given.get("context_window_size", min(2048, max(max_positions(config) // 4, 64)))
    chunk = given.get("chunk_size", 64 if window >= 1024 else 32 if window >= 256 else 16)
    if "context_window_size" not in given:  # a quarter of the positions need not divide into chunks
        window -= window % chunk
    target = max(window // 2 // chunk, 1) * chunk
    sizes = {"context_window_size": window, "chunk_size": chunk, "target_size": target}
    seen = given.get("num_sink_tokens", 4) + 1 + 2 * 8 * chunk + window + chunk  # with 8 keys
    keys = 8 if given.get("reuse_states") and seen <= max_positions(config) else 4
    return {**sizes, "key_num": keys, "chunk_batch_size": 4}
