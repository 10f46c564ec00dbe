"""What a bi-encoder is trained for: which objectives, with which weights and temperatures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from .checks_biencoder import check_choice, check_fields, check_number

DISTILLATIONS = ("kl", "ranked")
MARGINS = ("absolute", "relative")
LOSSES = ("contrastive_loss", "symmetric_loss", "distillation_loss", "margin_mse_loss", "pair_ranking_loss")


@dataclass
class Objectives:
    """The terms of the loss. A weight of 0 leaves one out; each is added where a batch has what it needs.

    What a field means stands in its `help`, which `lookback finetune` shows.

    Raises TypeError or ValueError for a value that makes no sense.
    """

    contrastive_weight: float = field(
        default=1.0, metadata={"help": "Weight of InfoNCE from each query over the passages."}
    )
    symmetric_weight: float = field(
        default=0.0, metadata={"help": "Weight of InfoNCE from each positive over the queries (in-batch only)."}
    )
    distillation_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the distillation from teacher scores over each query's own passages."},
    )
    distillation: str = field(
        default="kl", metadata={"help": "kl, or ranked: each passage against those that the teacher ranks below it."}
    )
    student_temperature: float = field(
        default=1.0, metadata={"help": "Scores are divided by it in the distillation, beside the model's temperature."}
    )
    teacher_temperature: float = field(
        default=1.0, metadata={"help": "Teacher scores are divided by it in the distillation."}
    )
    margin_mse_weight: float = field(default=0.0, metadata={"help": "Weight of margin-MSE against teacher scores."})
    pair_ranking_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the ranking loss (CoSENT) on scored pairs: batches with one passage a query, a score "
            "for each and no in-batch negatives."
        },
    )
    mask_false_negatives: bool = field(
        default=True,
        metadata={
            "help": "A text known to be a positive of a query is no negative of it, where the batch says which texts "
            "are equal."
        },
    )
    false_negative_margin: float | None = field(
        default=None,
        metadata={
            "help": "Passages more similar to the query than its positive less this are no negatives. Default: no "
            "limit."
        },
    )
    false_negative_margin_kind: str = field(
        default="absolute", metadata={"help": "absolute, or relative to the positive's similarity."}
    )
    matryoshka_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "One for each of the model's embedding_dims, in their order (arXiv:2205.13147, c_m of eq. 1); 1 "
            "each by default. The full width counts 1 where it is not among them."
        },
    )

    def __post_init__(self) -> None:
        check_fields(self, Objectives)
        names = [entry.name for entry in fields(Objectives)]  # a subclass may have more
        weights = {name: getattr(self, name) for name in names if name.endswith("_weight")}
        for name, value in weights.items():
            check_number(name, value, least=0.0)
        if not any(weights.values()):
            raise ValueError(f"{', '.join(weights)} are all 0: nothing is left to train for.")
        for name in ("student_temperature", "teacher_temperature"):
            check_number(name, getattr(self, name), above=0.0)
        check_choice("distillation", self.distillation, DISTILLATIONS)
        check_choice("false_negative_margin_kind", self.false_negative_margin_kind, MARGINS)
        for weight in self.matryoshka_weights or ():
            check_number("matryoshka_weights", weight, least=0.0)

    def present(self, group_size: int, in_batch_negatives: bool, has_teacher: bool) -> list[str]:
        """Names of the losses with a weight that a batch has what they need for.

        Raises ValueError where a batch has nothing to learn from.
        """
        competes = in_batch_negatives or group_size > 1
        teaches = has_teacher and group_size > 1
        has = (competes, in_batch_negatives, teaches, teaches, has_teacher and not competes)  # in the order of LOSSES
        found = [name for name, needed in zip(LOSSES, has, strict=True) if needed and self.weight(name)]
        if not found:
            raise ValueError(
                f"a batch with {group_size} passages a query, in_batch_negatives={in_batch_negatives} and "
                f"{'' if has_teacher else 'no '}teacher scores has no objective with a weight above 0: give teacher "
                "scores, more passages or in-batch negatives, or another weight."
            )
        return found

    def widths(self, embedding_dims: Sequence[int] | None, hidden_size: int) -> dict[int, float]:
        """{width: weight} of the widths that train, the full one first.

        Raises ValueError where there are not as many weights as `embedding_dims`.
        """
        dims = list(embedding_dims or ())
        weights = [1.0] * len(dims) if self.matryoshka_weights is None else list(self.matryoshka_weights)
        if len(weights) != len(dims):
            raise ValueError(
                f"{len(weights)} matryoshka_weights for embedding_dims={dims or None}: give one weight a width."
            )
        return {hidden_size: 1.0, **dict(zip(dims, weights, strict=True))}

    def weight(self, name: str) -> float:
        """The weight of a loss."""
        return getattr(self, name.removesuffix("loss") + "weight")

    def names(self, embedding_dims: Sequence[int] | None, hidden_size: int) -> dict[str, float]:
        """{name: weight} of all the losses that a batch may have; those of a narrower width end in `_<width>`."""
        return {
            loss_name(name, width, hidden_size): width_weight * self.weight(name)
            for width, width_weight in self.widths(embedding_dims, hidden_size).items()
            for name in LOSSES
        }


def loss_name(name: str, width: int, hidden_size: int) -> str:
    """`contrastive_loss` at full width, `contrastive_loss_64` at width 64."""
    return name if width == hidden_size else f"{name}_{width}"
