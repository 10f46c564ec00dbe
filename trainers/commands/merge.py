"""`lookback merge`: makes a complete model of an adapter and the model that it was trained on."""

from dataclasses import dataclass, field
from pathlib import Path

from peft.utils import CONFIG_NAME as ADAPTER_CONFIG_NAME

from ..jobs.idle import refuse_without
from ..jobs.places import check_folder
from ..models.adapted import load_adapted
from ..models.kind import check_dtype
from ..models.merging import merge_adapter
from .loading import PRESET_HELP, LoadingArguments
from .parsing import given, parse_arguments


@dataclass
class MergeArguments:
    """What to merge, and where to."""

    model: str = field(metadata={"help": "Folder or Hub id of the adapter."})
    output: str = field(metadata={"help": "Folder for the complete repo: weights, code, tokenizer, card."})
    base: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the model to merge it into; default: the one it names."}
    )
    base_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the base's repo; default: the one it names."}
    )
    retriever: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of the retriever, for an adapter that was trained on a plain LM with one."
        },
    )
    retriever_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the retriever's repo."}
    )
    retriever_base: str | None = field(
        default=None, metadata={"help": "Of a retriever that is an adapter: what --base is of the model."}
    )
    preset: str | None = field(default=None, metadata={"help": PRESET_HELP})
    dtype: str | None = field(
        default=None,
        metadata={"help": "Load the base in this type (float32, bfloat16); default: the one it was saved in."},
    )

    def __post_init__(self) -> None:
        check_folder("--output", self.output)
        check_dtype(self.dtype)
        if self.retriever is None:
            refuse_without(self, "retriever", ("retriever_revision", "retriever_base"))
        if (Path(self.output) / ADAPTER_CONFIG_NAME).exists():
            raise ValueError(
                f"--output={self.output!r} holds an adapter, which would be applied to the merged weights again: "
                "name another folder."
            )


ARGUMENTS = (MergeArguments, LoadingArguments)
EXAMPLES = r"""
# an adapter and the base that it names
lookback merge --model runs/lora --output runs/merged
# onto another copy of the base
lookback merge --model runs/lora --base folder --output runs/merged
# in 16 bits
lookback merge --model runs/lora --dtype bfloat16 --output runs/merged
"""


def main(argv: list[str]) -> None:
    """Runs the command with the arguments `argv`, and prints the folder, for `from_pretrained`."""
    arguments, loading = parse_arguments(argv, ARGUMENTS, "merge", __doc__)
    model = load_adapted(arguments.model, **given(arguments, "model", "output"), **loading.keywords())
    merge_adapter(model).save_pretrained(arguments.output)
    print(arguments.output)
