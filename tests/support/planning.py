"""Models, batches and their shapes, to measure what a plan reckons."""

from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_llara.prompts_llara import build_row
from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from trainers.models.adapters import add_adapter
from trainers.planning.shapes import Rows, Shapes, biencoder_shapes, srlm_shapes


def made(system: str, family: str, lora: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model of the system on a backbone of the family, in training."""
    if system == "biencoder":
        backbone = tiny_backbone(family, lm_head=False)
        model: Any = BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), pooling="mean", max_length=48)
    elif system == "llara":
        model = LlaraForPreTraining.from_backbone(tiny_backbone(family), tiny_tokenizer())
    else:
        settings = {"context_window_size": 64, "chunk_size": 16, "key_num": 1}
        model = SelfRetrievalLM.from_components(
            tiny_backbone(family), tiny_tokenizer(), retrieval_method="bm25", **settings
        )
    model.to(dtype)
    if lora:
        add_adapter(model, LoraConfig(r=4))
    return model.train()


def batch_of(system: str, model: Any, **settings: Any) -> tuple[dict[str, Any], Shapes]:
    """(keywords of `forward`, what a plan takes them for)."""
    given = {"query_max_length": 16, "passage_max_length": None, "train_group_size": 2, "sub_batch_size": None,
             "document_length": 160, "target_size": 32, **settings}  # fmt: skip
    if system == "biencoder":
        sides = {"query": _padded(4, 16), "passage": _padded(8, 48)}
        asked = SimpleNamespace(per_device_train_batch_size=4, **given)
        return {**sides, "sub_batch_size": given["sub_batch_size"]}, biencoder_shapes(model.config, asked, asked)
    if system == "srlm":
        ids = random_ids(2, given["document_length"])
        labels = ids.clone()
        labels[:, : -given["target_size"]] = -100
        asked = SimpleNamespace(per_device_train_batch_size=2, **given)
        return {"input_ids": ids, "labels": labels}, srlm_shapes(model.config, asked, asked)
    found = [build_row(model.config, random_ids(200).tolist(), 160) for _ in range(3)]
    ids, labels = (torch.tensor([row[name] for row in found]) for name in ("input_ids", "labels"))
    words = {f"output_{name}_ids": random_ids(3, 12) for name in ("summarize", "predict")}
    rows = (Rows("passages", 3, 160, int((labels[0] >= 0).sum())),)
    special = model.config.num_summary_tokens + model.config.num_predict_tokens
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, **words}
    return whole, Shapes(rows, rows, words=special)


def _padded(count: int, length: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(count, length, dtype=torch.long)
    mask[0, -3:] = 0
    return {"input_ids": random_ids(count, length), "attention_mask": mask}
