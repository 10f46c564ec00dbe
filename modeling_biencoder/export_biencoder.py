"""Export to a folder that sentence-transformers loads, where it can express what the model does."""

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from .configuration_biencoder import BiEncoderConfig
from .placement_biencoder import check_at_hand
from .saving_biencoder import saved_whole

_POOLINGS = {"last_token": "lasttoken", "cls": "cls_token", "mean": "mean_tokens"}  # ours -> theirs


def export_sentence_transformers(model: Any, folder: str | os.PathLike) -> None:
    """Write backbone, tokenizer and module files of a BiEncoderModel into `folder`, all of them or nothing.

    Raises ValueError for what sentence-transformers has no module for.
    """
    config = model.config
    _check_exportable(config)
    if model._hf_peft_config_loaded:
        raise ValueError("the model carries an adapter: merge it into the weights before the export.")
    check_at_hand(model)
    tokenizer = deepcopy(model.tokenizer)
    tokenizer.padding_side = "right"  # our positions count from the row's start
    tokenizer.model_max_length = config.max_length
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    with saved_whole(Path(folder)) as place:
        model.backbone.save_pretrained(place)
        tokenizer.save_pretrained(place)
        for path, content in _module_files(config).items():
            (place / path).parent.mkdir(exist_ok=True)
            (place / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _check_exportable(config: BiEncoderConfig) -> None:
    hindrances = {
        f"pooling={config.pooling!r} (it has {sorted(_POOLINGS)})": config.pooling not in _POOLINGS,
        "bidirectional=True (older versions would silently run the backbone causally)": config.bidirectional,
        "append_eos=True (build it into the tokenizer instead)": config.append_eos,
        "separate_prompts=True": config.separate_prompts,
        "prompts with a suffix": any(
            text for prompt in config.prompts.values() for key, text in prompt.items() if key.endswith("_suffix")
        ),
    }
    found = [what for what, present in hindrances.items() if present]
    if found:
        raise ValueError(
            f"sentence-transformers cannot express {'; '.join(found)}. Load the model with "
            "AutoModel.from_pretrained(repo, trust_remote_code=True) and use its encode instead."
        )


def _module_files(config: BiEncoderConfig) -> dict[str, Any]:
    # The names of version 5 and before: version 6 still reads them, and the other way round it does not work.
    kinds = ["Transformer", "Pooling", *(["Normalize"] if config.normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    flags = {f"pooling_mode_{mode}": mode == _POOLINGS[config.pooling] for mode in _POOLINGS.values()}
    return {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": config.max_length, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": config.hidden_size, **flags},
        "config_sentence_transformers.json": {
            "prompts": _flat_prompts(config.prompts),
            "default_prompt_name": None,
            "similarity_fn_name": config.similarity,
        },
    }


def _flat_prompts(prompts: dict[str, dict[str, str]]) -> dict[str, str]:
    """Task "default" under `query`, `passage` and `document` (their word for passage), others under `task-role`."""
    flat = {}
    for task, prompt in prompts.items():
        for role, prefix in prompt.items():
            if not role.endswith("_suffix"):
                flat[role if task == "default" else f"{task}-{role}"] = prefix
    if "passage" in flat:
        flat["document"] = flat["passage"]
    return flat
