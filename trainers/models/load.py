"""A bi-encoder for a command that embeds: from a repo of one, of a LLaRA model, or around any backbone."""

from typing import Any

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_llara import LlaraConfig

from ..jobs.parts import weights_digest
from .adapted import is_adapter, load_adapted
from .converted import load_as_biencoder
from .kind import model_type


def load_biencoder(
    model: str, revision: str | None = None, trust_remote_code: bool = False, pooling: str | None = None
) -> BiEncoderModel:
    """The bi-encoder of the Hub id or folder `model`, of its adapter alone, too, in eval mode.

    Args:
        trust_remote_code: for a backbone with code of its own; our repos need none.
        pooling: makes a bi-encoder of a plain backbone: `last_token`, `cls` or `mean`, and normalised.

    Raises ValueError for a plain backbone without pooling, and for a pooling where the repo has its own.
    """
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    kind = model_type(model, hub)
    if kind not in (BiEncoderConfig.model_type, LlaraConfig.model_type):
        if pooling is None:
            raise ValueError(
                f"{model!r} is a plain {kind}, no bi-encoder: say how it is pooled with --pooling last_token, cls or "
                f"mean, or make a bi-encoder of it with `lookback finetune` or `lookback convert`."
            )
        return BiEncoderModel.from_backbone(model, pooling=pooling, **hub).eval()
    if pooling is not None:
        raise ValueError(f"--pooling is for a plain backbone; {model!r} is a {kind} and brings its own.")
    if kind == LlaraConfig.model_type:
        return load_as_biencoder(model, revision=revision).eval()
    if is_adapter(model, revision):
        return load_adapted(model, revision=revision).eval()
    return BiEncoderModel.from_pretrained(model, revision=revision).eval()


def encoding_settings(model: BiEncoderModel) -> dict[str, Any]:
    """Whatever the embeddings of a text depend on."""
    names = ("pooling", "pooling_k", "normalize", "bidirectional", "similarity", "prompts", "max_length")
    settings = {name: getattr(model.config, name) for name in (*names, "append_eos", "separate_prompts")}
    return {**settings, "sha256 of the weights": weights_digest(model)}
