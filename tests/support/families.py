"""A plain model of each family, by the family's short name."""

from typing import Any

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import tiny_backbone, tiny_tokenizer


def build(family: str) -> Any:
    """`biencoder`, `llara` or `srlm`, the last with a bi-encoder as its retriever."""
    tokenizer = tiny_tokenizer()
    if family == "biencoder":
        return BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tokenizer, pooling="mean")
    if family == "llara":
        return LlaraForPreTraining.from_backbone(tiny_backbone(), tokenizer)
    return SelfRetrievalLM.from_components(
        tiny_backbone(), tokenizer, build("biencoder"), context_window_size=256, chunk_size=32, key_num=2
    )
