"""Step 3: the adapted backbone becomes a bi-encoder, fine-tuned with the feedback as teacher, and is measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining

from ..biencoder.arguments import BiEncoderTrainingArguments
from ..biencoder.trainer import BiEncoderTrainer
from ..embedded.corpus import CodePair
from ..models.convert import biencoder_from_llara
from ..retrieval.bm25 import bm25_matrix
from ..retrieval.metrics import rank_passages, retrieval_metrics
from .settings import DemoArguments, show_loss, training_arguments

CUTOFF = 10
QUERY_TOKENS, PASSAGE_TOKENS = 72, 128


def to_biencoder(llara: LlaraForPreTraining) -> BiEncoderModel:
    """The bi-encoder that LLaRA made: its backbone, prompts and pooling."""
    return biencoder_from_llara(llara, max_length=PASSAGE_TOKENS, temperature=0.05)


def evaluate_biencoder(model: BiEncoderModel, pairs: Sequence[CodePair]) -> dict[str, float]:
    """MRR@10, nDCG@10 and recall@10 of finding each docstring's code among all of the pairs' code."""
    queries = model.encode([pair.query for pair in pairs], role="query", batch_size=64)
    passages = model.encode([pair.passage for pair in pairs], role="passage", batch_size=64)
    return _metrics(rank_passages(model.similarity(queries, passages), CUTOFF))


def evaluate_bm25(pairs: Sequence[CodePair]) -> dict[str, float]:
    """The same for BM25 on words."""
    scores = bm25_matrix([pair.query for pair in pairs], [pair.passage for pair in pairs])
    return _metrics(rank_passages(scores, CUTOFF))


def _metrics(rankings: list[list[int]]) -> dict[str, float]:
    return retrieval_metrics(rankings, [{number} for number in range(len(rankings))], ks=(CUTOFF,))


def finetune_biencoder(model: BiEncoderModel, rows: list[dict[str, Any]], options: DemoArguments) -> list[dict]:
    """Trains in place; returns the logged losses."""
    arguments = training_arguments(
        BiEncoderTrainingArguments,
        options,
        Path(options.output_dir) / "biencoder",
        max_steps=options.biencoder_steps,
        per_device_train_batch_size=options.biencoder_batch_size,
        learning_rate=options.biencoder_learning_rate,
        train_group_size=options.group_size,
        query_max_length=QUERY_TOKENS,
        passage_max_length=PASSAGE_TOKENS,
    )
    trainer = BiEncoderTrainer(model, arguments, train_dataset=rows)
    show_loss(trainer)
    trainer.train()
    return trainer.state.log_history
