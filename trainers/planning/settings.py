"""What a plan is asked for: a model, its use, its machines. Names are those of the commands that do it."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from hub_cards.travelling.checks import check_positive_int
from modeling_srlm.limits_srlm import STORE_DTYPES

from ..jobs.idle import refuse_without
from .units import bytes_of, count_of

SYSTEMS = ("biencoder", "llara", "srlm")
PEAK_TFLOPS = {"float32": 67.0, "bfloat16": 989.0, "float16": 989.0}  # of an H100 SXM, without sparsity
PRECISIONS = ("float32", "bfloat16", "float16")
# Settings that one system alone has.
ONLY = {
    "biencoder": ("train_group_size", "query_max_length", "passage_max_length", "sub_batch_size", "passages",
                  "truncate_dim"),
    "llara": ("max_length",),
    "srlm": ("document_length", "target_size", "context_window_size", "chunk_size", "key_num", "reuse_states",
             "store_dtype"),
}  # fmt: skip


@dataclass
class PlannedModel:
    """The model."""

    model: str = field(metadata={"help": "Hub id, folder, or config.json of a model of ours or of any backbone."})
    system: Literal["biencoder", "llara", "srlm"] = field(
        metadata={"help": "What it is, or is made into: a bi-encoder, LLaRA, or an LM that looks back."}
    )
    dtype: str = field(default="float32", metadata={"help": "Type of the weights: float32, bfloat16 or float16."})
    lora_rank: int | None = field(
        default=None, metadata={"help": "Rank of a LoRA on every linear layer; none trains all weights."}
    )

    def __post_init__(self) -> None:
        if self.dtype not in PRECISIONS:
            raise ValueError(f"--dtype={self.dtype!r} must be one of {', '.join(PRECISIONS)}: choose one of them.")
        check_counts(self, "lora_rank")


@dataclass
class PlannedMachines:
    """Machines."""

    gpus: int = field(default=1, metadata={"help": "Devices that share the work."})
    gpu_memory: str = field(default="80GB", metadata={"help": "Memory of each, such as 80GB or 24GiB."})
    peak_tflops: float | None = field(
        default=None,
        metadata={
            "help": "Operations of each, in 10^12 a second, in the type that it computes in. Default: an H100's, 989 "
            "in bfloat16 and float16, 67 in float32."
        },
    )
    utilization: float = field(default=0.4, metadata={"help": "Share of these that is reached; measure yours."})
    sharding: Literal["none", "zero2", "fsdp"] = field(
        default="none",
        metadata={"help": "none: all on each device; zero2: gradients and optimizer shared; fsdp: weights too."},
    )

    def __post_init__(self) -> None:
        check_counts(self, "gpus")
        if self.peak_tflops is not None and not 0 < self.peak_tflops < float("inf"):
            raise ValueError(f"--peak_tflops={self.peak_tflops} must be above 0: 989 is an H100's in bfloat16.")
        if not 0 < self.utilization <= 1:
            raise ValueError(f"--utilization={self.utilization} must be above 0 and at most 1: 0.4 is common.")
        self.memory = bytes_of("gpu_memory", self.gpu_memory)


@dataclass
class PlannedTraining:
    """Training."""

    rows: str | None = field(
        default=None, metadata={"help": "Queries, passages (llara) or documents (srlm) to train on, such as 1M."}
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "How many times each of them is seen."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Of them on a device at once."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Such batches a step."})
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Keep the layers' inputs alone, and compute the rest again."}
    )
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16 (autocast) on weights of --dtype."})
    optim: str = field(default="adamw_torch", metadata={"help": "transformers' name of the optimizer."})

    def __post_init__(self) -> None:
        check_counts(self, "per_device_train_batch_size", "gradient_accumulation_steps")
        if not 0 < self.num_train_epochs < float("inf"):
            raise ValueError(f"--num_train_epochs={self.num_train_epochs} must be above 0: raise it.")
        if self.rows is None:
            refuse_without(self, "rows", ["num_train_epochs"])
        self.num_rows = None if self.rows is None else count_of("rows", self.rows)


@dataclass
class PlannedTexts:
    """Texts: their lengths in tokens, and how many. What a system does not have is refused."""

    query_max_length: int | None = field(
        default=None, metadata={"help": "biencoder: of a query (default: the model's max_length)."}
    )
    passage_max_length: int | None = field(
        default=None, metadata={"help": "biencoder: of a passage (default: the model's max_length)."}
    )
    train_group_size: int | None = field(
        default=None, metadata={"help": "biencoder: passages for each query (default: 8)."}
    )
    sub_batch_size: int | None = field(
        default=None, metadata={"help": "biencoder: texts embedded at a time (default: the whole batch)."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "llara: of a row, prompts included (default: 512)."}
    )
    document_length: int | None = field(default=None, metadata={"help": "srlm: of a document (default: 4096)."})
    target_size: int | None = field(default=None, metadata={"help": "srlm: scored of a document (default: 512)."})
    context_window_size: int | None = field(default=None, metadata={"help": "srlm: of the window (default: 2048)."})
    chunk_size: int | None = field(default=None, metadata={"help": "srlm: of a chunk (default: 64)."})
    key_num: int | None = field(default=None, metadata={"help": "srlm: chunks retrieved for a target (default: 1)."})
    reuse_states: bool = field(
        default=False, metadata={"help": "srlm: read documents once, and keep keys and values; no training."}
    )
    store_dtype: str | None = field(
        default=None, metadata={"help": "srlm, --reuse_states: float32, bfloat16 or int8 (default: the model's)."}
    )
    passages: str | None = field(default=None, metadata={"help": "biencoder: passages to index, such as 10M."})
    truncate_dim: int | None = field(default=None, metadata={"help": "biencoder: numbers kept of an embedding."})

    def __post_init__(self) -> None:
        whole = [one.name for one in fields(PlannedTexts) if "int" in str(one.type)]
        check_counts(self, *whole)
        if self.passages is None:
            refuse_without(self, "passages", ["truncate_dim"])
        self.num_passages = None if self.passages is None else count_of("passages", self.passages)
        if self.store_dtype is not None and (not self.reuse_states or self.store_dtype not in STORE_DTYPES):
            raise ValueError(
                f"--store_dtype={self.store_dtype!r} must be one of {', '.join(STORE_DTYPES)}, with --reuse_states: "
                "choose one, or leave it out."
            )

    def check_system(self, system: str) -> None:
        """ValueError for a setting that another system has."""
        for other, names in ONLY.items():
            for name in names if other != system else ():
                if getattr(self, name) not in (None, False):
                    raise ValueError(
                        f"--{name}={getattr(self, name)} is for --system {other}, and this is {system}: leave it out."
                    )


def check_counts(settings: Any, *names: str) -> None:
    """ValueError for the first of the named settings that is given and no whole number of at least 1."""
    for name in names:
        if (value := getattr(settings, name)) is not None:
            check_positive_int(f"--{name}", value, "give a whole number of at least 1")
