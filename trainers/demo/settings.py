"""What the demo's command line sets. The defaults fit six minutes on two cores."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from transformers import ProgressCallback, Trainer, TrainingArguments

from ..embedded import BACKBONE_FOLDER

Arguments = TypeVar("Arguments", bound=TrainingArguments)


@dataclass
class DemoArguments:
    """Sizes of the demo's steps and where its results go."""

    backbone: str = field(
        default=str(BACKBONE_FOLDER), metadata={"help": "Folder or Hub id of the LM. Default: the embedded backbone."}
    )
    output_dir: str = field(default="runs/demo", metadata={"help": "Folder of the three repos and the report."})
    llara_steps: int = field(default=200, metadata={"help": "Steps of LLaRA adaptation."})
    llara_batch_size: int = field(default=8, metadata={"help": "Passages a step."})
    llara_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of the adaptation."})
    code_pairs: int = field(default=1024, metadata={"help": "Docstring and code pairs to fine-tune on."})
    holdout_pairs: int = field(default=500, metadata={"help": "Held-out pairs to evaluate on."})
    feedback_documents: int = field(default=50, metadata={"help": "Documents in which the LM scores earlier chunks."})
    biencoder_steps: int = field(default=56, metadata={"help": "Steps of bi-encoder fine-tuning."})
    biencoder_batch_size: int = field(default=32, metadata={"help": "Queries a step."})
    biencoder_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of the fine-tuning."})
    group_size: int = field(default=2, metadata={"help": "Passages of each query's own."})
    document_length: int = field(default=6144, metadata={"help": "Tokens of each hold-out document."})
    max_documents: int | None = field(default=None, metadata={"help": "Hold-out documents to score; default: all."})
    seed: int = field(default=0, metadata={"help": "Of every random choice."})


# The self-retrieval LM of the demo: 512 retrieved tokens before a window of 512.
LM_SETTINGS: dict[str, Any] = {
    "context_window_size": 512,
    "chunk_size": 32,
    "key_num": 8,
    "target_size": 256,
    "chunk_batch_size": 4,
}


def training_arguments(kind: type[Arguments], options: DemoArguments, folder: Path, **settings: Any) -> Arguments:
    """Training arguments that the demo's two trainings share."""
    shared = {
        "logging_steps": max(settings["max_steps"] // 30, 1),
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": False,
        "seed": options.seed,
        "dataloader_pin_memory": False,
    }
    return kind(output_dir=str(folder), **shared, **settings)


class LossProgress(ProgressCallback):
    """The Trainer's progress bar with the loss behind it, and no line of text for every log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")


def show_loss(trainer: Trainer) -> None:
    """Makes the trainer show its progress so."""
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(LossProgress)
