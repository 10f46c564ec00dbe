"""`lookback train-lm`: trains a language model on documents that it looks back into."""

from dataclasses import dataclass, field

from ..srlm.arguments import SelfRetrievalTrainingArguments
from ..srlm.trainer import SelfRetrievalTrainer
from .parsing import parse_arguments
from .training import DataArguments, LoraArguments, given, run_training


@dataclass
class TrainLmModelArguments:
    """The language model, its retriever and what is retrieved."""

    model: str = field(metadata={"help": "Hub id or folder of a causal LM, or of a self-retrieval LM to go on with."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model's repo."})
    retriever: str | None = field(default=None, metadata={"help": "Hub id or folder of a bi-encoder, for `dense`."})
    retriever_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the retriever's repo."}
    )
    retrieval_method: str | None = field(default=None, metadata={"help": "no, random, bm25, dense or oracle."})
    context_window_size: int | None = field(default=None, metadata={"help": "Tokens of the window."})
    chunk_size: int | None = field(default=None, metadata={"help": "Tokens of a chunk, the unit of retrieval."})
    key_num: int | None = field(default=None, metadata={"help": "Chunks retrieved for a target chunk."})
    order_method: str | None = field(default=None, metadata={"help": "sequential or relevance."})
    integrate_method: str | None = field(default=None, metadata={"help": "concat or replace."})


def main(argv: list[str]) -> None:
    """Runs the command with the arguments `argv` (without the program's and the command's names)."""
    types = (TrainLmModelArguments, DataArguments, LoraArguments, SelfRetrievalTrainingArguments)
    model, data, lora, args = parse_arguments(argv, types, "train-lm", __doc__)
    run_training(SelfRetrievalTrainer, model.model, given(model, "model"), data, lora, args)
