"""`lookback finetune`: trains a bi-encoder on queries and passages."""

import json
from dataclasses import dataclass, field
from typing import Any

from ..biencoder.arguments import BiEncoderTrainingArguments
from ..biencoder.trainer import BiEncoderTrainer
from ..data.readers import without_surrogates
from ..jobs.idle import refuse_idle
from .loading import PRESET_HELP, DtypeArguments, ModelArguments
from .lora import LoraArguments
from .parsing import given, parse_arguments
from .training import MixtureDataArguments, RunArguments, run_training


@dataclass
class FinetuneModelArguments:
    """The model to fine-tune, and how a new bi-encoder makes its embeddings."""

    model: str = field(metadata={"help": "Hub id or folder of a bi-encoder, a LLaRA model or any backbone."})
    preset: str | None = field(default=None, metadata={"help": PRESET_HELP})
    pooling: str | None = field(default=None, metadata={"help": "last_token, cls, mean or mean_last_k."})
    pooling_k: int | None = field(default=None, metadata={"help": "Tokens that mean_last_k averages."})
    normalize: bool | None = field(default=None, metadata={"help": "Divide embeddings by their L2 norm."})
    temperature: float | None = field(default=None, metadata={"help": "Scores are divided by it in the loss."})
    bidirectional: bool | None = field(default=None, metadata={"help": "Let every token see every other one."})
    append_eos: bool | None = field(default=None, metadata={"help": "End every text with the end-of-sequence token."})
    max_length: int | None = field(default=None, metadata={"help": "Longest text in tokens, prompt included."})
    embedding_dims: list[int] | None = field(
        default=None, metadata={"help": "Widths that the embeddings are trained to be cut to (Matryoshka)."}
    )
    prompts: str | None = field(
        default=None, metadata={"help": 'Prompts by task, as JSON: {"default": {"query": "query: "}}.'}
    )

    def __post_init__(self) -> None:
        if self.pooling not in (None, "mean_last_k"):  # the repo's own may be it
            refuse_idle(self, ["pooling_k"], f"with --pooling {self.pooling}")


ARGUMENTS = (
    FinetuneModelArguments,
    ModelArguments,
    DtypeArguments,
    MixtureDataArguments,
    LoraArguments,
    BiEncoderTrainingArguments,
    RunArguments,
)
EXAMPLES = r"""
# settings from a file; what stands here wins
lookback finetune --config examples/finetune.yaml --learning_rate 1e-4
# a LoRA on a decoder
lookback finetune --model Qwen/Qwen3-0.6B --train_data pairs.jsonl --lora_rank 16 --output_dir runs/lora
# many negatives in small memory, and an evaluation
lookback finetune --model folder --train_data pairs.jsonl --output_dir runs/large \
    --per_device_train_batch_size 256 --sub_batch_size 16 --eval_retrieval beir/scifact
"""


def main(argv: list[str]) -> None:
    """Runs the command with the arguments `argv` (without the program's and the command's names)."""
    model, loading, precision, data, lora, args, run = parse_arguments(argv, ARGUMENTS, "finetune", __doc__)
    model_kwargs = {**given(model, "model"), **loading.keywords(), **precision.keywords()}
    if model.prompts is not None:
        model_kwargs["prompts"] = _read_prompts(model.prompts)
    run_training(BiEncoderTrainer, model.model, model_kwargs, data, lora, args, "queries", run.dry_run)


def _read_prompts(text: str) -> Any:
    try:
        return without_surrogates(json.loads(text))
    except RecursionError:
        raise ValueError("--prompts is nested too deep to be read: write it flatter.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"prompts={text!r} is not JSON: {error}") from error
