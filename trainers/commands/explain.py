"""`lookback explain`: prints the words that a LLaRA model's embedding of a text stands for."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..llara.explain import Explanation, explain
from ..llara.stop_words import load_stop_words
from ..models.load import load_llara
from .loading import DtypeArguments, ModelArguments
from .parsing import check_at_least, parse_arguments


@dataclass
class ExplainArguments:
    """The model, and what to print."""

    model: str = field(
        metadata={"help": "Hub id or folder of a LLaRA model or of its adapter, as `lookback pretrain` saves."}
    )
    top_k: int = field(default=8, metadata={"help": "Words to print for each prompt."})
    stop_words: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Leave out stop words (languages or files) and punctuation. Default: none."},
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Cut a text so that it has so many tokens with both prompts."}
    )

    def __post_init__(self) -> None:
        check_at_least(self, 1, "top_k", "max_length")


def format_explanation(text: str, explanation: Explanation) -> str:
    """The text, shortened, and a line for each word of each prompt."""
    start = " ".join(text.split())
    lines = [f"{start[:96]} ..." if len(start) > 100 else start]
    for name, words in explanation.items():
        lines += [f"  {name}", *(f"    {probability:8.5f}  {word!r}" for word, probability in words)]
    return "\n".join(lines)


ARGUMENTS = (ExplainArguments, ModelArguments, DtypeArguments)
EXAMPLES = r"""
# a text
lookback explain "Who wrote Faust?" --model runs/llara
# two texts, the likeliest 20 words
lookback explain "A first text." "A second one." --model runs/llara --top_k 20
# without stop words and punctuation
lookback explain "Who wrote Faust?" --model runs/llara --stop_words english
"""
POSITIONAL = ("texts", "The texts, each in quotes.")


def main(argv: list[str]) -> None:
    """Prints the explanations of the texts on the command line."""
    arguments, loading, precision, given = parse_arguments(argv, ARGUMENTS, "explain", __doc__, POSITIONAL)
    if not given.texts:
        raise ValueError('there is no text and must be one or more: lookback explain "a text" --model folder.')
    stop_words = load_stop_words(arguments.stop_words)
    model: Any = load_llara(arguments.model, **loading.keywords(), **precision.keywords())
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    explanations = explain(model, given.texts, arguments.top_k, stop_words, arguments.max_length)
    for text, explanation in zip(given.texts, explanations, strict=True):
        print(format_explanation(text, explanation))
