"""Arguments of the three Trainers: transformers' own, and a few more for each family."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from ..biencoder.evaluation_arguments import EvaluationArguments
from ..biencoder.mixture_arguments import MixtureArguments
from ..biencoder.objective_arguments import ObjectiveArguments
from ..llara.stop_words import LANGUAGES, load_stop_words


@dataclass
class _FamilyArguments(TrainingArguments):
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: rows are texts, which no forward takes under their names."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns=True would drop the texts of the rows; leave it False.")
        # accelerate would read streamed data on one process and cut its batches up by their first dimension, which
        # differs between queries and passages; each process reads its own share instead.
        accelerator: Any = self.accelerator_config  # an object by now, whatever form it was given in
        if accelerator.dispatch_batches is None:
            accelerator.dispatch_batches = False

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be 1 or more.")


@dataclass
class BiEncoderTrainingArguments(ObjectiveArguments, MixtureArguments, EvaluationArguments, _FamilyArguments):
    """`TrainingArguments`, how many passages of which length meet a query, and what for (`ObjectiveArguments`)."""

    train_group_size: int = field(
        default=8, metadata={"help": "Passages for each query: one positive, the others negatives of its own."}
    )
    query_max_length: int | None = field(
        default=None, metadata={"help": "Longest query in tokens, prompt included; by default the model's max_length."}
    )
    passage_max_length: int | None = field(
        default=None,
        metadata={"help": "Longest passage in tokens, prompt included; by default the model's max_length."},
    )
    in_batch_negatives: bool = field(
        default=True, metadata={"help": "Score a query with the passages of the whole batch, not with its own alone."}
    )
    use_teacher_scores: bool = field(
        default=True, metadata={"help": "Distil from the teacher scores of rows that have them."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("train_group_size", "query_max_length", "passage_max_length", "sub_batch_size")
        self.objectives()  # a wrong value is an error now, not after the model has loaded
        self._check_evaluation()
        self._check_mixture()
        if not self.in_batch_negatives and self.train_group_size < 2:
            raise ValueError(
                "train_group_size=1 with in_batch_negatives=False leaves no negatives; raise it or use the batch's."
            )


@dataclass
class LlaraTrainingArguments(_FamilyArguments):
    """`TrainingArguments`, and how a passage becomes a row; weights of the losses are in the model's config."""

    learning_rate: float = field(default=1e-5, metadata={"help": "Initial learning rate (the paper's for 7B models)."})
    max_length: int = field(
        default=512, metadata={"help": "Longest row in tokens, both prompts included; the passage is cut to fit."}
    )
    loss_weighting_learning_rate: float = field(
        default=1e-3,
        metadata={"help": "Initial learning rate of learned weights of the losses (loss_weighting='uncertainty')."},
    )
    remove_stop_words: bool = field(
        default=True, metadata={"help": "Leave stop words out of what the predict prompt has to name."}
    )
    stop_words: list[str] = field(
        default_factory=lambda: ["english"],
        metadata={"help": f"Which: {', '.join(LANGUAGES)}, files with lists of your own, several of them, or none."},
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read and cut text in its order while training goes on, not before; needs max_steps."},
    )
    precision_k: int = field(
        default=8, metadata={"help": "Evaluation: how many of the k likeliest words at each prompt are in its target."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("max_length", "precision_k")
        if isinstance(self.stop_words, str):
            self.stop_words = [self.stop_words]
        self.loaded_stop_words()  # an unknown list is an error now, not after the model has loaded

    def loaded_stop_words(self) -> frozenset[str]:
        """The words themselves, none where `remove_stop_words` is off."""
        return load_stop_words(self.stop_words if self.remove_stop_words else ["none"])


@dataclass
class SelfRetrievalTrainingArguments(_FamilyArguments):
    """`TrainingArguments`, and how documents are cut; what is retrieved is in the model's config."""

    document_length: int = field(
        default=4096, metadata={"help": "Tokens of a document block: context to retrieve from, window and target."}
    )
    target_size: int = field(
        default=512, metadata={"help": "Tokens at the end of a block that are scored; a multiple of chunk_size."}
    )

    index_refresh_steps: int | None = field(
        default=None,
        metadata={
            "help": "Keep chunk embeddings (dense, self, hybrid) in memory for so many steps; default: none are kept."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("document_length", "target_size")
        if self.index_refresh_steps is not None:
            self._check_positive("index_refresh_steps")
        if self.target_size >= self.document_length:
            raise ValueError(
                f"target_size={self.target_size} must be less than document_length={self.document_length}: a document "
                f"block holds context too."
            )
