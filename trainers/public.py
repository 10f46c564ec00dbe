"""The public names of `trainers`, from where they are. `from trainers import BiEncoderTrainer` finds them here."""

from .biencoder.arguments import BiEncoderTrainingArguments
from .biencoder.collator import BiEncoderCollator
from .biencoder.entries import DataSetEntry
from .biencoder.rows import load_biencoder_rows
from .biencoder.trainer import BiEncoderTrainer
from .data.documents import load_documents
from .llara.arguments import LlaraTrainingArguments
from .llara.collator import LlaraCollator
from .llara.explain import explain
from .llara.rows import load_llara_rows
from .llara.trainer import LlaraTrainer
from .mining.mine import mine_hard_negatives
from .models.adapted import load_adapted
from .models.adapters import add_adapter
from .models.merging import merge_adapter
from .models.mteb_encoder import MtebEncoder
from .models.saved_adapters import load_adapter
from .needle.results import NeedleResults
from .needle.run import needle_test
from .needle.settings import NeedleSettings
from .retrieval.beir import load_retrieval_data
from .retrieval.data import RetrievalData
from .retrieval.evaluator import RetrievalEvaluator
from .retrieval.index import EmbeddingIndex, load_index
from .retrieval.metrics import (
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
from .retrieval.search import top_k_passages
from .retrieval.sets import load_evaluators
from .retrieval.stored import load_embeddings
from .srlm.arguments import SelfRetrievalTrainingArguments
from .srlm.collator import SelfRetrievalCollator, collate_dialogues
from .srlm.rows import tokenize_documents
from .srlm.trainer import SelfRetrievalTrainer

__all__ = [
    "BiEncoderCollator",
    "BiEncoderTrainer",
    "BiEncoderTrainingArguments",
    "DataSetEntry",
    "EmbeddingIndex",
    "LlaraCollator",
    "LlaraTrainer",
    "LlaraTrainingArguments",
    "MtebEncoder",
    "NeedleResults",
    "NeedleSettings",
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
    "load_index",
    "load_llara_rows",
    "load_metric",
    "load_retrieval_data",
    "mean_average_precision",
    "mean_reciprocal_rank",
    "merge_adapter",
    "metrics_path",
    "mine_hard_negatives",
    "ndcg",
    "needle_test",
    "push_metric",
    "rank_passages",
    "recall",
    "retrieval_metrics",
    "tokenize_documents",
    "top_k_passages",
]
