"""A SelfRetrievalLM for a command: from a repo of one, or around any causal LM."""

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM


def load_srlm(
    model: str,
    settings: dict[str, Any],
    retriever: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    retriever_revision: str | None = None,
) -> SelfRetrievalLM:
    """The SelfRetrievalLM of the Hub id or folder `model`; a plain causal LM is wrapped into one.

    Args:
        settings: of [`SelfRetrievalConfig`]; what is not given is that of the repo, or fits the plain LM's positions.
        retriever: Hub id or folder of a bi-encoder, for a plain LM and the method 'dense'.
        revision, retriever_revision: branch, tag or commit of either repo.

    Raises ValueError for a retriever where the repo brings its own.
    """
    loading = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(model, **loading)
    if config.model_type != SelfRetrievalConfig.model_type:
        method = "bm25" if retriever is None else "dense"
        complete = {"retrieval_method": method, **_defaults(config, settings), **settings}
        pin = {} if retriever_revision is None else {"revision": retriever_revision}
        return SelfRetrievalLM.from_components(
            model, retriever=retriever, model_kwargs=loading, retriever_kwargs=pin, **complete
        )
    if retriever is not None:
        raise ValueError("--retriever is for a plain causal LM; this repo is a SelfRetrievalLM and brings its own.")
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, **loading)
    for name, value in settings.items():
        setattr(loaded.config, name, value)
    return loaded


def max_positions(config: Any) -> int:
    """Positions of a causal LM; families without a limit of their own (ALiBi's, such as BLOOM) name none."""
    return getattr(config, "max_position_embeddings", 8192)


def _defaults(config: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Settings for a plain LM: a quarter of its positions as the window, half of the window scored at once."""
    window = given.get("context_window_size", min(2048, max(max_positions(config) // 4, 64)))
    chunk = given.get("chunk_size", 64 if window >= 1024 else 32 if window >= 256 else 16)
    target = max(window // 2 // chunk, 1) * chunk
    sizes = {"context_window_size": window, "chunk_size": chunk, "target_size": target}
    return {**sizes, "key_num": 4, "chunk_batch_size": 4}
