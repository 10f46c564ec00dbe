"""Training arguments of LLaRA."""

from dataclasses import dataclass, field

from ..base.arguments import FamilyArguments, check_least
from ..jobs.idle import refuse_idle
from .stop_words import LANGUAGES, load_stop_words


@dataclass
class LlaraTrainingArguments(FamilyArguments):
    """`TrainingArguments`, and how a passage becomes a row; weights of the losses are in the model's config."""

    learning_rate: float = field(
        default=1e-5,
        metadata={"help": "Initial learning rate: the paper's for 7B models; 1e-4 was best of three for 135M."},
    )
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
        if isinstance(self.stop_words, str):
            self.stop_words = [self.stop_words]
        super().__post_init__()
        check_least(self, 1, "max_length", "precision_k")
        check_least(self, 0, "learning_rate", "loss_weighting_learning_rate")
        if not self.remove_stop_words:
            refuse_idle(self, ["stop_words"], "with remove_stop_words=False", mark="")
        self.loaded_stop_words()  # an unknown list is an error now, not after the model has loaded

    def loaded_stop_words(self) -> frozenset[str]:
        """The words themselves, none where `remove_stop_words` is off."""
        return load_stop_words(self.stop_words if self.remove_stop_words else ["none"])
