"""What the demo's command line sets. The defaults fit six minutes on two cores, with --pretrained twenty-five."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from transformers import ProgressCallback, Trainer, TrainingArguments

from hub_cards.travelling.checks import check_number

from ..embedded import BACKBONE_FOLDER
from ..jobs.places import check_folder
from .journal import cpu_seconds

Arguments = TypeVar("Arguments", bound=TrainingArguments)

# The self-retrieval LM of the demo: 512 retrieved tokens before a window of 512.
LM_SETTINGS: dict[str, Any] = {
    "context_window_size": 512,
    "chunk_size": 32,
    "key_num": 8,
    "target_size": 256,
    "chunk_batch_size": 4,
}

# That of SmolLM2-135M: 512 retrieved tokens before a window of 384.
PRETRAINED_SETTINGS: dict[str, Any] = {
    "context_window_size": 384,
    "chunk_size": 64,
    "key_num": 4,
    "target_size": 192,
    "chunk_batch_size": 6,
}


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
    pretrained: bool = field(
        default=False,
        metadata={
            "help": "The loop on real models: SmolLM2-135M looks back, and teaches all-MiniLM-L6-v2 where to. Goes on "
            "where it was interrupted. Nothing is adapted; the sizes are others (docs/demo.md)."
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "With --pretrained: start anew over an earlier run."})

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int) and not isinstance(value, bool) and one.name != "seed":
                check_number(f"--{one.name}", value, least=1)
        check_folder("--output_dir", self.output_dir)
        if self.overwrite and not self.pretrained:
            raise ValueError("--overwrite is for --pretrained, which goes on with an earlier run: leave it out.")
        if self.code_pairs == 1 < self.group_size:
            raise ValueError(
                f"--code_pairs=1 must be at least 2 with --group_size={self.group_size}, as the code of other pairs "
                "is what a docstring's own stands beside: raise it, or set --group_size 1."
            )
        self._check_length()

    def _check_length(self) -> None:
        """ValueError for texts too short to look back, and where ways of reading would not score the same tokens."""
        settings, length = PRETRAINED_SETTINGS if self.pretrained else LM_SETTINGS, self.document_length
        chunk, which = settings["chunk_size"], " with --pretrained" if self.pretrained else ""
        least = 2 * (settings["context_window_size"] + settings["key_num"] * chunk)  # half holds window and keys
        if length < least:
            raise ValueError(
                f"--document_length={length} must be at least {least}{which}, to look back at anything: raise it."
            )
        if self.pretrained and length % chunk:  # kept states' chunks begin with the text, the others end with it
            raise ValueError(
                f"--document_length={length} must be a multiple of {chunk}{which}, so that all ways of reading score "
                f"the same tokens: take {round(length / chunk) * chunk}."
            )


@dataclass
class PretrainedArguments(DemoArguments):
    """The same with --pretrained: other sizes, for models that are thirty times as large."""

    output_dir: str = field(default="runs/pretrained")
    code_pairs: int = field(default=128)
    holdout_pairs: int = field(default=300)
    feedback_documents: int = field(default=10)
    biencoder_steps: int = field(default=28)
    biencoder_batch_size: int = field(default=16)
    biencoder_learning_rate: float = field(default=5e-5)
    group_size: int = field(default=4)
    document_length: int = field(default=3072)
    max_documents: int | None = field(default=5)
    pretrained: bool = field(default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in fields(DemoArguments):
            if one.name.startswith(("backbone", "llara")) and (value := getattr(self, one.name)) != one.default:
                raise ValueError(
                    f"--{one.name}={value!r} is for the demo on one backbone, which LLaRA adapts, and "
                    "--pretrained has models of its own: leave one of them out."
                )


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
    }
    return kind(output_dir=str(folder), **shared, **settings)


def announce(number: int, step: str) -> None:
    """The line above a step."""
    print(f"\n== {number}/5 {step} [{cpu_seconds():.0f} s of CPU so far]", flush=True)


class LossProgress(ProgressCallback):
    """The Trainer's progress bar with the loss behind it, and no line of text for every log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")


def show_loss(trainer: Trainer) -> None:
    """Makes the trainer show its progress so."""
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(LossProgress)
