"""A bi-encoder of a repo, whole: also of one that holds an adapter alone, on the base that the adapter names."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import ADAPTER_CONFIG_NAME, cached_file

from .configuration_biencoder import BiEncoderConfig
from .loading_biencoder import holds_adapter_alone, tokenizer_keywords
from .repository_biencoder import load_tokenizer

_FIX = "merge it into its base with `lookback merge` of Lookback, and load that."


def load_whole(source: str, place: dict[str, Any], settings: dict[str, Any]) -> Any:
    """The BiEncoderModel of a repo or folder.

    Args:
        place: keywords that say where the repo is, such as `revision`.
        settings: the other keywords of `from_pretrained`, and fields of `BiEncoderConfig`.

    Raises ValueError for an adapter whose base is not named, or has to be built by Lookback.
    """
    from .modeling_biencoder import BiEncoderModel  # which carries this file along

    if not holds_adapter_alone(source, place):
        return BiEncoderModel.from_pretrained(source, **place, **settings)
    wanted = BiEncoderConfig.from_pretrained(source, **place)
    fields = {name: getattr(wanted, name) for name in BiEncoderConfig.keywords() if name != "text_config"}
    base, of_base = _base_of(source, place)
    kind = PreTrainedConfig.get_config_dict(base, **of_base)[0].get("model_type")
    if str(kind).startswith("lookback_") and kind != BiEncoderConfig.model_type:
        raise ValueError(f"{source!r} is an adapter on a bi-encoder made of {base!r}, a {kind}: {_FIX}")
    make = BiEncoderModel.from_pretrained if kind == BiEncoderConfig.model_type else BiEncoderModel.from_backbone
    model = make(base, **{**of_base, **fields, **settings})
    sizes = [config.get_text_config().vocab_size for config in (model.config.text_config, wanted.text_config)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{source!r} is an adapter on {base!r}, to which {sizes[1] - sizes[0]} tokens were added: {_FIX}"
        )
    model.load_adapter(source, adapter_kwargs=place)
    if cached_file(source, TOKENIZER_CONFIG_FILE, _raise_exceptions_for_missing_entries=False, **place):
        model.tokenizer = load_tokenizer(source, tokenizer_keywords({**settings, **place}))
    return model


def _base_of(source: str, place: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(the base that the adapter in a repo names, keywords that say where that is)."""
    adapter = json.loads(Path(str(cached_file(source, ADAPTER_CONFIG_NAME, **place))).read_text(encoding="utf-8"))
    base = adapter.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{source!r} is an adapter that names no base: {_FIX}")
    elsewhere = {name: value for name, value in place.items() if name not in ("revision", "subfolder")}
    return base, {**elsewhere, **({"revision": adapter["revision"]} if adapter.get("revision") else {})}
