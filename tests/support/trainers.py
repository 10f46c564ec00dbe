"""A tiny Trainer of each family."""

from pathlib import Path
from typing import Any

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, PASSAGES, SENTENCES, arguments
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
)
from trainers.base.trainer import FamilyTrainer


def make_trainer(family: str, folder: Path, **settings: Any) -> FamilyTrainer:
    """A Trainer of the family ("biencoder", "llara", "srlm") on 8 rows, with a checkpoint at its end, step 3."""
    given = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, **settings}  # an epoch is 2 steps
    if family == "biencoder":
        model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean")
        return BiEncoderTrainer(model, arguments(BiEncoderTrainingArguments, folder, **given), PAIRS)
    if family == "llara":
        model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
        return LlaraTrainer(model, arguments(LlaraTrainingArguments, folder, **given), PASSAGES)
    settings = {"context_window_size": 16, "chunk_size": 4, "retrieval_method": "bm25"}
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **settings)
    own = {"document_length": 24, "target_size": 8}
    rows = [{"text": " ".join(SENTENCES)[:90]}] * 8
    return SelfRetrievalTrainer(model, arguments(SelfRetrievalTrainingArguments, folder, **own, **given), rows)
