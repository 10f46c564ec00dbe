"""Step 3: the adapted backbone becomes a bi-encoder, fine-tuned with the feedback as teacher, and is measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining

from ..biencoder.arguments import BiEncoderTrainingArguments
from ..biencoder.entries import DataSetEntry
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


def ranks(model: BiEncoderModel | None, pairs: Sequence[CodePair], asked: int | None = None) -> list[int]:
    """The rank, from 1, of each docstring's code among all of the pairs' code; without a model BM25's.

    `asked`: so many docstrings, the first ones; by default all.
    """
    queries, passages = [pair.query for pair in pairs[:asked]], [pair.passage for pair in pairs]
    if model is None:
        return own_ranks(bm25_matrix(queries, passages))
    embedded = [model.encode(texts, role=role) for texts, role in ((queries, "query"), (passages, "passage"))]
    return own_ranks(model.similarity(*embedded))


def own_ranks(scores: torch.Tensor) -> list[int]:
    """Of each row of (m, n) scores the rank of its own column, of equal scores the first column's first.

    >>> own_ranks(torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.2, 0.1], [0.0, 0.0, 1.0]]))
    [2, 2, 1]
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    return (order == torch.arange(len(scores))[:, None]).int().argmax(dim=1).add(1).tolist()


def reciprocal_ranks(found: Sequence[int]) -> list[float]:
    """1 / rank up to `CUTOFF`, 0 behind it: MRR is their mean."""
    return [1 / rank if rank <= CUTOFF else 0.0 for rank in found]


def evaluate_bm25(pairs: Sequence[CodePair]) -> dict[str, float]:
    """The same for BM25 on words."""
    scores = bm25_matrix([pair.query for pair in pairs], [pair.passage for pair in pairs])
    return _metrics(rank_passages(scores, CUTOFF))


def _metrics(rankings: list[list[int]]) -> dict[str, float]:
    return retrieval_metrics(rankings, [{number} for number in range(len(rankings))], ks=(CUTOFF,))


def finetune_biencoder(
    model: BiEncoderModel,
    rows: list[dict[str, Any]] | Mapping[str, list[dict[str, Any]]],
    options: DemoArguments,
    **settings: Any,
) -> list[dict]:
    """Trains in place; returns the logged losses.

    Args:
        rows: of one data set, or of several by name, of which each gives batches of its own.
        settings: further training arguments.
    """
    mapped = rows if isinstance(rows, Mapping) else {}
    entries = [DataSetEntry(part, name=name) for name, part in mapped.items() if part]
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
        **settings,
    )
    trainer = BiEncoderTrainer(model, arguments, train_dataset=entries or rows)
    show_loss(trainer)
    trainer.train()
    return trainer.state.log_history
