"""What a bi-encoder is trained for: which objectives, with which weights and temperatures."""

from collections.abc import Sequence
from dataclasses import dataclass

from .checks_biencoder import check_bool, check_choice, check_number

DISTILLATIONS = ("kl", "ranked")
MARGINS = ("absolute", "relative")
LOSSES = ("contrastive_loss", "symmetric_loss", "distillation_loss", "margin_mse_loss", "pair_ranking_loss")


@dataclass(frozen=True)
class Objectives:
    """The terms of the loss. A weight of 0 leaves one out; each is added where a batch has what it needs.

    Args:
        contrastive_weight: of InfoNCE from each query over the passages.
        symmetric_weight: of InfoNCE from each positive over the queries (in-batch only).
        distillation_weight: of the distillation from teacher scores over each query's own passages.
        distillation: `kl` (`distillation_loss`), or `ranked` (`ranked_distillation_loss`).
        student_temperature, teacher_temperature: scores are divided by them in the distillation; the student's are
            divided by the model's temperature before.
        margin_mse_weight: of margin-MSE against teacher scores.
        pair_ranking_weight: of `pair_ranking_loss` on scored pairs: batches with one passage a query, a score for each
            and no in-batch negatives.
        mask_false_negatives: leave known positives out of the negatives, where the batch says which texts are equal.
        false_negative_margin: leave passages out that are more similar to the query than its positive less this
            margin; None leaves none out.
        false_negative_margin_kind: `absolute`, or `relative` to the positive's similarity.
        matryoshka_weights: one for each of the model's `embedding_dims`, in their order (arXiv:2205.13147, c_m of
            eq. 1); by default 1 each. The full width counts 1 where it is not among them.

    Raises TypeError or ValueError for a value that makes no sense.
    """

    contrastive_weight: float = 1.0
    symmetric_weight: float = 0.0
    distillation_weight: float = 1.0
    distillation: str = "kl"
    student_temperature: float = 1.0
    teacher_temperature: float = 1.0
    margin_mse_weight: float = 0.0
    pair_ranking_weight: float = 1.0
    mask_false_negatives: bool = True
    false_negative_margin: float | None = None
    false_negative_margin_kind: str = "absolute"
    matryoshka_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        weights = {name: value for name, value in vars(self).items() if name.endswith("_weight")}
        for name, value in weights.items():
            check_number(name, value, least=0.0)
        if not any(weights.values()):
            raise ValueError(f"{', '.join(weights)} are all 0: nothing is left to train for.")
        for name in ("student_temperature", "teacher_temperature"):
            check_number(name, getattr(self, name), above=0.0)
        check_choice("distillation", self.distillation, DISTILLATIONS)
        check_choice("false_negative_margin_kind", self.false_negative_margin_kind, MARGINS)
        check_bool("mask_false_negatives", self.mask_false_negatives)
        if self.false_negative_margin is not None:
            check_number("false_negative_margin", self.false_negative_margin)
        if not isinstance(self.matryoshka_weights, list | tuple | None):
            kind = type(self.matryoshka_weights).__name__
            raise TypeError(f"matryoshka_weights must be a list, one weight for each of embedding_dims, not {kind}.")
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
