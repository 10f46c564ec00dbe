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


def save_llm_reranker(folder: Path) -> str:
    """A causal LM whose logits of "yes" and "no" are the score, as `CrossEncoder` saves it."""
    from sentence_transformers import CrossEncoder

    tokenizer, lm = tiny_tokenizer("left"), tiny_backbone("qwen")
    tokenizer.add_tokens(["yes", "no"])
    lm.resize_token_embeddings(len(tokenizer))
    lm.save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    CrossEncoder(str(folder / "lm"), device="cpu").save_pretrained(str(folder / "reranker"))
    return str(folder / "reranker")
