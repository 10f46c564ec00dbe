"""Export to a folder that sentence-transformers loads: with its own modules where it has them, else with ours."""

import inspect
import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from .adapting_biencoder import refuse_wrapped
from .configuration_biencoder import BiEncoderConfig
from .inputs_biencoder import check_truncate_dim
from .placement_biencoder import check_at_hand
from .saving_biencoder import saved_whole
from .sentence_encoder_biencoder import write_sentence_files
from .sentence_settings_biencoder import TEXT, flat_prompts, settings_of
from .sentence_transformers_biencoder import MODULES, SETTINGS, WEIGHTS

_POOLINGS = {"last_token": "lasttoken", "cls": "cls_token", "mean": "mean_tokens"}  # ours -> theirs


def export_sentence_transformers(model: Any, folder: str | os.PathLike, truncate_dim: int | None = None) -> None:
    """Write a BiEncoderModel into `folder`, all of it or nothing; arguments as of its method."""
    config = model.config
    check_truncate_dim(truncate_dim, config.embedding_dims, config.hidden_size)
    if model._hf_peft_config_loaded:
        raise ValueError(
            "the model carries an adapter, and an export holds all weights: merge it first, with merge_adapter(model) "
            "of trainers, or `lookback merge`."
        )
    refuse_wrapped(model)
    check_at_hand(model)
    with saved_whole(Path(folder), model.should_save_on_this_rank(True)) as place:
        if _has_modules_for(config, truncate_dim):
            _write_their_modules(model, place, truncate_dim)
        else:
            model.save_pretrained(place)
            write_sentence_files(config, place, truncate_dim)


def _has_modules_for(config: BiEncoderConfig, truncate_dim: int | None) -> bool:
    """Whether sentence-transformers has modules for all that the model does.

    (It cuts vectors after they are normalised, and some versions ran a bidirectional decoder causally.)
    """
    plain = not (config.bidirectional or config.append_eos or config.separate_prompts)
    texts = [(key, text) for prompt in config.prompts.values() for key, text in prompt.items()]
    prefixes_alone = not any(TEXT in text or (text and key.endswith("_suffix")) for key, text in texts)
    return plain and prefixes_alone and config.pooling in _POOLINGS and not (truncate_dim and config.normalize)


def _write_their_modules(model: Any, place: Path, truncate_dim: int | None) -> None:
    config, tokenizer = model.config, deepcopy(model.tokenizer)
    tokenizer.padding_side = "right"  # our positions count from the row's start
    tokenizer.model_max_length = config.max_length
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.backbone.save_pretrained(place)
    tokenizer.save_pretrained(place)
    for path, content in _module_files(model, truncate_dim).items():
        (place / path).parent.mkdir(exist_ok=True)
        (place / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for number, layer in enumerate(model.dense or (), start=2):
        state = {name: value.detach().cpu().contiguous() for name, value in layer.state_dict().items()}
        save_file(state, place / f"{number}_Dense" / WEIGHTS, metadata={"format": "pt"})


def _module_files(model: Any, truncate_dim: int | None) -> dict[str, Any]:
    config = model.config
    flags = {f"pooling_mode_{mode}": mode == _POOLINGS[config.pooling] for mode in _POOLINGS.values()}
    transformer = {"max_seq_length": config.max_length, "do_lower_case": False, **_without_pooler(model.backbone)}
    settings = [
        ("Transformer", transformer),
        ("Pooling", {"word_embedding_dimension": config.pooled_size, **flags}),
        *(("Dense", _dense_settings(layer)) for layer in config.dense or ()),
        *([("Normalize", {})] if config.normalize else []),
    ]
    paths = ["", *(f"{number}_{kind}" for number, (kind, _) in enumerate(settings) if number)]
    # The names of version 5 and before: version 6 still reads them, and the other way round it does not work.
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, ((kind, _), path) in enumerate(zip(settings, paths, strict=True))
    ]
    files = {f"{path}/config.json": content for path, (_, content) in list(zip(paths, settings, strict=True))[1:]}
    return {
        **files,
        MODULES: modules,
        "sentence_bert_config.json": transformer,
        SETTINGS: settings_of(config, flat_prompts(config.prompts), truncate_dim),
    }


def _without_pooler(backbone: Any) -> dict[str, Any]:
    """What keeps the pooler, which nothing uses and whose weights are not there, from being built and reported."""
    known = "add_pooling_layer" in inspect.signature(type(backbone).__init__).parameters
    return {"model_args": {"add_pooling_layer": False}} if known else {}


def _dense_settings(layer: dict[str, Any]) -> dict[str, Any]:
    activation = layer.get("activation", "Identity")
    module = "linear" if activation == "Identity" else "activation"
    return {
        "in_features": layer["in_features"],
        "out_features": layer["out_features"],
        "bias": layer.get("bias", True),
        "activation_function": f"torch.nn.modules.{module}.{activation}",
    }
