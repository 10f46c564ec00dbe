"""Folders of tiny sentence-transformers models, whole ones."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.support.tiny import tiny_backbone, tiny_tokenizer

FLAGS = {"last_token": "lasttoken", "cls": "cls_token", "mean": "mean_tokens"}


def saved(folder: Path, family: str = "bert", **what: Any) -> str:
    """A sentence-transformers folder, written as its first versions wrote them."""
    settings = {"pooling": "mean", "normalize": True, "length": 24, "lower": False, "path": "", "dense": (), **what}
    backbone = tiny_backbone(family, lm_head=False)
    place = folder / settings["path"]
    backbone.save_pretrained(place)
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "right"  # as sentence-transformers has them; with absolute positions it must be
    tokenizer.save_pretrained(place)
    width = backbone.config.hidden_size
    modules = [("Transformer", settings["path"]), ("Pooling", "1_Pooling")]
    length = {} if settings["length"] is None else {"max_seq_length": settings["length"]}
    files = {
        place / "sentence_bert_config.json": {**length, "do_lower_case": settings["lower"]},
        folder / "1_Pooling/config.json": {
            "word_embedding_dimension": width,
            **{f"pooling_mode_{name}": False for name in (*FLAGS.values(), "max_tokens")},
            f"pooling_mode_{FLAGS[settings['pooling']]}": True,
        },
        folder / "config_sentence_transformers.json": {
            name: what[name] for name in ("prompts", "default_prompt_name", "similarity_fn_name") if name in what
        },
    }
    for number, (wide, bias, activation) in enumerate(settings["dense"], start=2):
        modules.append(("Dense", f"{number}_Dense"))
        from sentence_transformers.models import Dense

        layer = Dense(width, wide, bias, getattr(torch.nn, activation)())
        (folder / f"{number}_Dense").mkdir()
        layer.save(str(folder / f"{number}_Dense"))
        width = wide
    if settings["normalize"]:
        modules.append(("Normalize", "9_Normalize"))
        (folder / "9_Normalize").mkdir()
    files[folder / "modules.json"] = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return str(folder)
