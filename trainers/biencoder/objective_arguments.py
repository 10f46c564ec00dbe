"""What the bi-encoder's loss is made of, as training arguments."""

import dataclasses
from dataclasses import dataclass, field

from modeling_biencoder import Objectives


@dataclass
class ObjectiveArguments:
    """The fields of `modeling_biencoder.Objectives`, and how the batch is embedded."""

    sub_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Texts embedded at a time; memory holds the activations of so many, at the price of a second "
            "forward pass. Same gradient. Default: the whole batch."
        },
    )
    contrastive_weight: float = field(default=1.0, metadata={"help": "Weight of InfoNCE."})
    symmetric_weight: float = field(
        default=0.0, metadata={"help": "Weight of InfoNCE from the positives over the queries."}
    )
    distillation_weight: float = field(
        default=1.0, metadata={"help": "Weight of the distillation from teacher scores, where rows have them."}
    )
    distillation: str = field(
        default="kl", metadata={"help": "kl, or ranked: each passage against those that the teacher ranks below it."}
    )
    student_temperature: float = field(
        default=1.0, metadata={"help": "Scores are divided by it in the distillation, beside the model's temperature."}
    )
    teacher_temperature: float = field(default=1.0, metadata={"help": "Teacher scores are divided by it."})
    margin_mse_weight: float = field(default=0.0, metadata={"help": "Weight of margin-MSE against teacher scores."})
    pair_ranking_weight: float = field(
        default=1.0, metadata={"help": "Weight of the ranking loss on scored pairs (CoSENT)."}
    )
    mask_false_negatives: bool = field(
        default=True, metadata={"help": "A text known to be a positive of a query is no negative of it."}
    )
    false_negative_margin: float | None = field(
        default=None,
        metadata={"help": "Passages more similar than the positive less this are no negatives. Default: no limit."},
    )
    false_negative_margin_kind: str = field(
        default="absolute", metadata={"help": "absolute, or relative to the positive's similarity."}
    )
    matryoshka_weights: list[float] | None = field(
        default=None, metadata={"help": "One for each of the model's embedding_dims; 1 each by default."}
    )

    def objectives(self) -> Objectives:
        """The checked terms of the loss."""
        return Objectives(**{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(Objectives)})
