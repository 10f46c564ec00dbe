"""Trainers of the three model families, their data, metrics and command line."""

from .adapted import load_adapted
from .adapters import add_adapter, load_adapter
from .arguments import BiEncoderTrainingArguments, LlaraTrainingArguments, SelfRetrievalTrainingArguments
from .collators import BiEncoderCollator, LlaraCollator, SelfRetrievalCollator, collate_dialogues
from .data_biencoder import load_biencoder_rows
from .data_llara import load_llara_rows
from .data_srlm import load_documents, tokenize_documents
from .explain import explain
from .merging import merge_adapter
from .metrics import mean_reciprocal_rank, ndcg, rank_passages, recall, retrieval_metrics
from .trainer_biencoder import BiEncoderTrainer
from .trainer_llara import LlaraTrainer
from .trainer_srlm import SelfRetrievalTrainer

__all__ = [
    "BiEncoderCollator",
    "BiEncoderTrainer",
    "BiEncoderTrainingArguments",
    "LlaraCollator",
    "LlaraTrainer",
    "LlaraTrainingArguments",
    "SelfRetrievalCollator",
    "SelfRetrievalTrainer",
    "SelfRetrievalTrainingArguments",
    "add_adapter",
    "collate_dialogues",
    "explain",
    "load_adapted",
    "load_adapter",
    "load_biencoder_rows",
    "load_documents",
    "load_llara_rows",
    "mean_reciprocal_rank",
    "merge_adapter",
    "ndcg",
    "rank_passages",
    "recall",
    "retrieval_metrics",
    "tokenize_documents",
]
