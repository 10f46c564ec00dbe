"""A bi-encoder of a repo, whole: also of one that holds an adapter alone, on the base that the adapter names."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import ADAPTER_CONFIG_NAME, cached_file

from .backbones_biencoder import OF_BASE, base_keywords, base_not_there, base_place
from .configuration_biencoder import BiEncoderConfig
from .halves_biencoder import refuse_halves
from .loading_biencoder import holds_adapter_alone, tokenizer_keywords
from .vocabulary_biencoder import load_tokenizer

_FIX = "merge it into its base with `lookback merge` of Lookback, and load that."


def load_whole(source: str, place: dict[str, Any], settings: dict[str, Any]) -> Any:
    """The BiEncoderModel of a repo or folder.

    Args:
        place: keywords that say where the repo is, such as `revision`.
        settings: the other keywords of `from_pretrained`, and fields of `BiEncoderConfig`; `base` and `base_revision`
            of an adapter alone, in place of the base that it names.

    Raises ValueError for an adapter whose base is not named, not there, or has to be built by Lookback.
    """
    from .modeling_biencoder import BiEncoderModel  # which carries this file along

    if not holds_adapter_alone(source, place):
        return BiEncoderModel.from_pretrained(source, **place, **settings)
    wanted = BiEncoderConfig.from_pretrained(source, **place)
    fields = {name: getattr(wanted, name) for name in BiEncoderConfig.keywords() if name != "text_config"}
    named = json.loads(Path(str(cached_file(source, ADAPTER_CONFIG_NAME, **place))).read_text(encoding="utf-8"))
    base, of_base = base_place(source, named, {**place, **base_keywords(settings)})
    settings = {name: value for name, value in settings.items() if name not in OF_BASE}
    try:
        refuse_halves(base, of_base)
        kind = PreTrainedConfig.get_config_dict(base, **of_base)[0].get("model_type")
    except OSError as error:
        raise base_not_there(source, base, error) from error
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
