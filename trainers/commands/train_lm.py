"""`lookback train-lm`: trains a language model on documents that it looks back into."""

from dataclasses import dataclass, field

from hub_cards.travelling.checks import check_choice
from modeling_srlm.configuration_srlm import INTEGRATE_METHODS, ORDER_METHODS, RETRIEVAL_METHODS

from ..srlm.arguments import SelfRetrievalTrainingArguments
from ..srlm.trainer import SelfRetrievalTrainer
from .loading import DtypeArguments, KeptStatesArguments, RetrieverArguments
from .lora import LoraArguments
from .parsing import given, parse_arguments
from .training import DataArguments, RunArguments, run_training


@dataclass
class TrainLmModelArguments:
    """The language model, and what is retrieved."""

    model: str = field(metadata={"help": "Hub id or folder of a causal LM, or of a self-retrieval LM to go on with."})
    retrieval_method: str | None = field(default=None, metadata={"help": "no, random, bm25, dense or oracle."})
    order_method: str | None = field(default=None, metadata={"help": "sequential or relevance."})
    integrate_method: str | None = field(default=None, metadata={"help": "concat or replace."})

    def __post_init__(self) -> None:
        choices = {
            "retrieval_method": RETRIEVAL_METHODS,
            "order_method": ORDER_METHODS,
            "integrate_method": INTEGRATE_METHODS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) is not None:
                check_choice(f"--{name}", getattr(self, name), allowed)


ARGUMENTS = (
    TrainLmModelArguments,
    RetrieverArguments,
    DtypeArguments,
    KeptStatesArguments,
    DataArguments,
    LoraArguments,
    SelfRetrievalTrainingArguments,
    RunArguments,
)
EXAMPLES = r"""
# with a retriever of your own
lookback train-lm --model folder --retriever runs/finetune --train_data books --output_dir runs/srlm
# at the price of one pass, on every token of long documents
lookback train-lm --model folder --reuse_states --document_length 16384 --target_size 16320 \
    --train_data books --output_dir runs/srlm
# settings from a file; what stands here wins
lookback train-lm --config train_lm.yaml --learning_rate 1e-5
"""


def main(argv: list[str]) -> None:
    """Runs the command with the arguments `argv` (without the program's and the command's names)."""
    model, loading, precision, states, data, lora, args, run = parse_arguments(argv, ARGUMENTS, "train-lm", __doc__)
    model_kwargs = {**given(model, "model"), **given(loading), **precision.keywords(), **states.settings()}
    run_training(SelfRetrievalTrainer, model.model, model_kwargs, data, lora, args, "documents", run.dry_run)
