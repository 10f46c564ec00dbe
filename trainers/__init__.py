"""Trainers of the three model families, their data, metrics and command line."""

from .adapted import load_adapted
from .adapters import add_adapter, load_adapter
from .arguments import BiEncoderTrainingArguments, LlaraTrainingArguments, SelfRetrievalTrainingArguments
from .beir_folder import load_retrieval_data
from .collators import BiEncoderCollator, LlaraCollator, SelfRetrievalCollator, collate_dialogues
from .data_biencoder import load_biencoder_rows
from .data_llara import load_llara_rows
from .data_srlm import load_documents, tokenize_documents
from .embedding_files import load_embeddings
from .explain import explain
from .merging import merge_adapter
from .metrics import (
    load_metric,
    mean_average_precision,
    mean_reciprocal_rank,
    metrics_path,
    ndcg,
    push_metric,
    rank_passages,
    recall,
    retrieval_metrics,
)
from .mining import mine_hard_negatives
from .mixture_entries import DataSetEntry
from .passage_search import top_k_passages
from .retrieval_data import RetrievalData
from .retrieval_evaluator import RetrievalEvaluator
from .retrieval_sets import load_evaluators
from .trainer_biencoder import BiEncoderTrainer
from .trainer_llara import LlaraTrainer
from .trainer_srlm import SelfRetrievalTrainer

__all__ = [
    "BiEncoderCollator",
    "BiEncoderTrainer",
    "BiEncoderTrainingArguments",
    "DataSetEntry",
    "LlaraCollator",
    "LlaraTrainer",
    "LlaraTrainingArguments",
    "RetrievalData",
    "RetrievalEvaluator",
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
    "load_embeddings",
    "load_evaluators",
    "load_llara_rows",
    "load_metric",
    "load_retrieval_data",
    "mean_average_precision",
    "mean_reciprocal_rank",
    "merge_adapter",
    "metrics_path",
    "mine_hard_negatives",
    "ndcg",
    "push_metric",
    "rank_passages",
    "recall",
    "retrieval_metrics",
    "tokenize_documents",
    "top_k_passages",
]
