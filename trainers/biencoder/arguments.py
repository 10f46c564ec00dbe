"""Training arguments of the bi-encoder: the terms of its loss, its data, and what it is evaluated on."""

from dataclasses import dataclass, field, fields

from hub_cards.travelling.checks import check_positive_int
from modeling_biencoder import Objectives

from ..base.arguments import FamilyArguments, check_least
from ..base.options import check_settings
from ..jobs.idle import refuse_idle, refuse_without
from ..retrieval.evaluator import DEFAULT_KS
from ..retrieval.metrics import check_metrics
from .entries import check_group_size

MIXTURES = ("proportional", "temperature", "equal")


@dataclass
class MixtureArguments:
    """How training data are read: several data sets as one, streams, and in-context examples."""

    mixture: str = field(
        default="proportional",
        metadata={
            "help": "How many batches each of several data sets gives: as many as it takes to see every row once an "
            "epoch (proportional), ~ (its number of batches) ** (1 / mixture_temperature) (temperature), or equal."
        },
    )
    mixture_temperature: float = field(
        default=2.0, metadata={"help": "With mixture=temperature: 1 is proportional, the higher the more equal."}
    )
    symmetric_group_size: int | None = field(
        default=None,
        metadata={"help": "train_group_size of data sets of type sts, classification and clustering."},
    )
    symmetric_batch_size: int | None = field(
        default=None, metadata={"help": "per_device_train_batch_size of data sets of these types."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read training data while training goes on, not before; needs max_steps."}
    )
    shuffle_buffer: int = field(
        default=1000,
        metadata={"help": "Streamed rows of a file or repo are drawn from so many at a time; 0 keeps their order."},
    )
    max_examples: int = field(
        default=0,
        metadata={"help": "Put up to so many (query, positive) pairs of a query's batch before it, as examples."},
    )
    fixed_examples: bool = field(
        default=False, metadata={"help": "Always max_examples of them, not 0 to max_examples drawn anew each time."}
    )
    examples_max_length: int = field(
        default=256, metadata={"help": "Tokens that all examples of a query take at most, beside query_max_length."}
    )

    def __post_init__(self) -> None:
        if self.mixture not in MIXTURES:
            raise ValueError(f"mixture={self.mixture!r} must be one of {', '.join(MIXTURES)}: choose one of them.")
        if self.mixture_temperature <= 0:
            raise ValueError(
                f"mixture_temperature={self.mixture_temperature} must be more than 0: 1 is proportional, 2 more equal."
            )
        check_least(self, 1, "symmetric_group_size", "symmetric_batch_size", "examples_max_length")
        check_least(self, 0, "shuffle_buffer", "max_examples")
        if not self.max_examples:
            refuse_without(self, "max_examples", ("fixed_examples", "examples_max_length"), mark="")
        if self.mixture != "temperature":
            refuse_idle(self, ["mixture_temperature"], f"with mixture={self.mixture!r}", mark="")
        if not self.streaming:
            refuse_without(self, "streaming", ["shuffle_buffer"], mark="")


@dataclass
class EvaluationArguments:
    """What to evaluate retrieval on; texts are embedded in batches of `per_device_eval_batch_size`."""

    eval_retrieval: str | None = field(
        default=None,
        metadata={
            "help": "Evaluate retrieval on a folder with corpus, queries and qrels (BEIR, NanoBEIR), a folder of such "
            "folders, or a Hub id. Its metrics are eval_ndcg@10 and the like, and can choose the best model."
        },
    )
    eval_retrieval_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of eval_retrieval's Hub id."}
    )
    eval_ks: list[int] = field(
        default_factory=lambda: list(DEFAULT_KS), metadata={"help": "Cut-offs of the retrieval metrics."}
    )
    eval_truncate_dims: list[int] | None = field(
        default=None,
        metadata={"help": "Widths to cut the embeddings to (Matryoshka), measured beside the whole ones."},
    )
    eval_task: str | None = field(
        default=None, metadata={"help": "Task whose prompts retrieval is evaluated with. Default: 'default'."}
    )

    def __post_init__(self) -> None:
        check_metrics(("mrr",), self.eval_ks)
        for width in self.eval_truncate_dims or ():
            check_positive_int("eval_truncate_dims", width, "give widths to cut the embeddings to")
        if self.eval_retrieval is None:  # what else is set holds for folders among the evaluation data, too
            refuse_without(self, "eval_retrieval", ["eval_retrieval_revision"], mark="")


@dataclass
class BiEncoderTrainingArguments(Objectives, MixtureArguments, EvaluationArguments, FamilyArguments):
    """`TrainingArguments`, how many passages of which length meet a query, and what for (`Objectives`)."""

    sub_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Texts embedded at a time; memory holds the activations of so many, at the price of a second "
            "forward pass. Same gradient. Default: the whole batch."
        },
    )
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
        for part in (FamilyArguments, EvaluationArguments, MixtureArguments, Objectives):
            part.__post_init__(self)
        check_settings(self, {"include_num_input_tokens_seen": "a row is a query and passages, not one text"})
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy={self.train_sampling_strategy!r} needs the lengths of rows, which are texts "
                f"here; use random or sequential."
            )
        check_least(self, 1, "train_group_size", "query_max_length", "passage_max_length", "sub_batch_size")
        for name in ("train_group_size", "symmetric_group_size"):
            check_group_size(name, getattr(self, name))
        self._refuse_idle()
        if not self.in_batch_negatives and self.train_group_size < 2:
            raise ValueError(
                "train_group_size=1 with in_batch_negatives=False leaves no negatives: raise it or use the batch's."
            )

    def _refuse_idle(self) -> None:
        """ValueError for the settings of an objective that is left out."""
        of_scores = ("distillation", "student_temperature", "teacher_temperature")
        if self.distillation_weight == 0:
            refuse_idle(self, of_scores, "with distillation_weight=0", mark="")
        if not self.use_teacher_scores:
            refuse_idle(self, (*of_scores, "margin_mse_weight"), "with use_teacher_scores=False", mark="")
        if not self.in_batch_negatives:
            refuse_idle(self, ["symmetric_weight"], "with in_batch_negatives=False", mark="")
        if self.false_negative_margin is None:
            refuse_without(self, "false_negative_margin", ["false_negative_margin_kind"], mark="")

    def objectives(self) -> Objectives:
        """The terms of the loss alone, as a model's forward takes them."""
        return Objectives(**{entry.name: getattr(self, entry.name) for entry in fields(Objectives)})
