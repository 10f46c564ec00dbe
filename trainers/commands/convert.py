"""`lookback convert`: makes a bi-encoder of a LLaRA model, of its LoRA, or of a published LLaRA checkpoint."""

from dataclasses import dataclass, field

from ..jobs.places import check_folder
from ..models.load import load_as_biencoder
from .loading import LoadingArguments
from .parsing import given, parse_arguments


@dataclass
class ConvertArguments:
    """What to convert, and where to."""

    model: str = field(
        metadata={"help": "Hub id or folder of a LLaRA model, of its LoRA, or of a backbone that LLaRA adapted."}
    )
    output: str = field(metadata={"help": "Folder for the bi-encoder's repo."})
    backbone: str | None = field(
        default=None, metadata={"help": "For a LoRA: the model it was trained on; default: the one it names."}
    )
    backbone_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the backbone's repo; default: the one it names."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Longest text in tokens, prompt included."})
    temperature: float | None = field(default=None, metadata={"help": "Scores are divided by it in the loss."})

    def __post_init__(self) -> None:
        check_folder("--output", self.output)


ARGUMENTS = (ConvertArguments, LoadingArguments)
EXAMPLES = r"""
# a LLaRA model becomes a retriever
lookback convert --model runs/llara --output runs/biencoder
# its LoRA alone, on another copy of the backbone
lookback convert --model runs/llara-lora --backbone folder --output runs/biencoder
# shorter texts than LLaRA was trained on
lookback convert --model runs/llara --output runs/biencoder --max_length 128
"""


def main(argv: list[str]) -> None:
    """Runs the command with the arguments `argv`, and prints the folder, for `from_pretrained`."""
    arguments, loading = parse_arguments(argv, ARGUMENTS, "convert", __doc__)
    settings = given(arguments, "model", "output")
    load_as_biencoder(arguments.model, **settings, **loading.keywords()).save_pretrained(arguments.output)
    print(arguments.output)
