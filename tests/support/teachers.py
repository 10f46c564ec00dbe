"""Tiny cross-encoders, saved as sentence-transformers and as transformers save them."""

from pathlib import Path

import torch
import transformers

from tests.support.tiny import tiny_backbone, tiny_tokenizer


def save_cross_encoder(folder: Path, family: str = "bert", num_labels: int = 1, seed: int = 0) -> str:
    """A sequence-classification model with random weights: an encoder, or a decoder with a pad token."""
    config = tiny_backbone(family, lm_head=False).config
    config.num_labels = num_labels
    torch.manual_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tiny_tokenizer("right").save_pretrained(folder)
    return str(folder)
