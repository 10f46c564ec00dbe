"""`lookback train-lm`: trains a language model on documents that it looks back into."""

from dataclasses import dataclass, field

from ..srlm.arguments import SelfRetrievalTrainingArguments
from ..srlm.trainer import SelfRetrievalTrainer
from .parsing import RetrieverArguments, given, parse_arguments
from .training import DataArguments, LoraArguments, run_training


@dataclass
class TrainLmModelArguments:
    """The language model, and what is retrieved."""

    model: str = field(metadata={"help": "Hub id or folder of a causal LM, or of a self-retrieval LM to go on with."})
    retrieval_method: str | None = field(default=None, metadata={"help": "no, random, bm25, dense or oracle."})
    order_method: str | None = field(default=None, metadata={"help": "sequential or relevance."})
    integrate_method: str | None = field(default=None, metadata={"help": "concat or replace."})


def main(argv: list[str]) -> None:
    """Runs the command with the arguments `argv` (without the program's and the command's names)."""
    types = (TrainLmModelArguments, RetrieverArguments, DataArguments, LoraArguments, SelfRetrievalTrainingArguments)
    model, loading, data, lora, args = parse_arguments(argv, types, "train-lm", __doc__)
    model_kwargs = {**given(model, "model"), **given(loading)}
    run_training(SelfRetrievalTrainer, model.model, model_kwargs, data, lora, args)
