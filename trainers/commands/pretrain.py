"""`lookback pretrain`: adapts a decoder language model to text embedding with LLaRA, on plain text.

`--train_data` is a text file, a folder of them, rows with `text`, or rows with `input` and its targets.
"""

from dataclasses import dataclass, field

from ..jobs.idle import refuse_without
from ..llara.arguments import LlaraTrainingArguments
from ..llara.trainer import LlaraTrainer
from .loading import DtypeArguments, ModelArguments
from .lora import LoraArguments
from .parsing import given, parse_arguments
from .training import DataArguments, RunArguments, run_training


@dataclass
class PretrainModelArguments:
    """The model to adapt."""

    model: str = field(metadata={"help": "Hub id or folder of a causal LM, or of a LLaRA model to go on with."})
    bow_loss_weight: float | None = field(default=None, metadata={"help": "Weight of the bag-of-words losses."})
    ar_loss_weight: float | None = field(default=None, metadata={"help": "Weight of the next-token loss."})
    loss_weighting: str | None = field(
        default=None, metadata={"help": "fixed, or uncertainty: the losses' weights are learned."}
    )
    predict_sees_summarize: bool | None = field(
        default=None, metadata={"help": "Let the predict prompt see the summarize prompt."}
    )
    num_summary_tokens: int | None = field(default=None, metadata={"help": "Special tokens of the summarize prompt."})
    num_predict_tokens: int | None = field(default=None, metadata={"help": "Special tokens of the predict prompt."})


ARGUMENTS = (
    PretrainModelArguments,
    ModelArguments,
    DtypeArguments,
    DataArguments,
    LoraArguments,
    LlaraTrainingArguments,
    RunArguments,
)
EXAMPLES = r"""
# a decoder on plain text
lookback pretrain --model Qwen/Qwen3-0.6B --train_data text.jsonl --output_dir runs/llara
# settings from a file; what stands here wins
lookback pretrain --config pretrain.yaml --max_steps 1000
# a LoRA, with evaluation
lookback pretrain \
    --model folder --train_data texts --eval_data held.jsonl --lora_rank 16 --output_dir runs/lora
"""


def main(argv: list[str]) -> None:
    """Runs the command with the arguments `argv` (without the program's and the command's names)."""
    model, loading, precision, data, lora, args, run = parse_arguments(argv, ARGUMENTS, "pretrain", __doc__)
    if data.eval_data is None:
        refuse_without(args, "eval_data", ["precision_k"], mark="")
    model_kwargs = {**given(model, "model"), **loading.keywords(), **precision.keywords()}
    run_training(LlaraTrainer, model.model, model_kwargs, data, lora, args, "passages", run.dry_run)
