"""What the tests of LLaRA share: a batch of rows, a saved repo, and the bag of words as its definition reads."""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from modeling_llara import LlaraForPreTraining, build_row
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer


def plain_bag_of_words(logits: torch.Tensor, targets: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
    """Row by row, as the definition reads."""
    losses = []
    for row, ids in zip(logits, targets, strict=True):
        words = {int(i) for i in ids if i >= 0} - set(ignored.tolist())
        if words:
            log_probabilities = row.max(0).values.log_softmax(-1)
            losses.append(-log_probabilities[sorted(words)].mean())
    return torch.stack(losses).mean()


def batch_of(model: Any, lengths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Left-padded rows of so many tokens before their prompts, with targets."""
    rows = [build_row(model.config, (random_ids(n, seed=n) % 250 + 3).tolist()) for n in lengths]
    longest = max(len(row["input_ids"]) for row in rows)
    pads = [longest - len(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([[2] * pad + row["input_ids"] for pad, row in zip(pads, rows, strict=True)]),
        "attention_mask": torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads]),
        "labels": torch.tensor([[-100] * pad + row["labels"] for pad, row in zip(pads, rows, strict=True)]),
        "output_summarize_ids": random_ids(len(rows), 6, seed=8) % 250 + 3,
        "output_predict_ids": random_ids(len(rows), 4, seed=9) % 250 + 3,
    }


def saved(folder: Path, family: str = "llama", **config: Any) -> tuple[LlaraForPreTraining, dict, dict]:
    """(the model that now lies in the folder, the inputs of a forward pass, its outputs)."""
    backbone = tiny_backbone(family, **config)
    backbone.generation_config = GenerationConfig(max_length=77, pad_token_id=2)
    model = LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer(), bow_loss_weight=0.2).eval()
    row = build_row(model.config, model.tokenizer("the copper lantern on the island")["input_ids"])
    inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
    inputs |= {"output_summarize_ids": torch.tensor([[9, 30]]), "output_predict_ids": torch.tensor([[40, 2]])}
    with torch.no_grad():
        output = model(**inputs, output_logits=True)
    model.save_pretrained(folder)
    names = ("loss", "ar_loss", "bow_summarize_loss", "bow_predict_loss", "logits")
    return model, inputs, {name: output[name] for name in names}
