"""What a needle test is told: how long the texts are, where the facts stand, and how they are looked for."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from hub_cards.travelling.checks import check_choice, check_fields
from modeling_srlm.configuration_srlm import RETRIEVAL_METHODS

ALONE = "alone"  # the language model itself reads the whole text
METHODS = (ALONE, *(method for method in RETRIEVAL_METHODS if method != "oracle"))  # which needs the answer
_UNITS = {"": 1, "k": 2**10, "m": 2**20}
_LENGTH = re.compile(r"([1-9]\d*)([km]?)", re.IGNORECASE)


class Cell(NamedTuple):
    """A place of the picture: texts of `length` tokens that hold `keys` needles, the asked one at `depth` percent."""

    method: str
    length: int
    depth: int
    keys: int


@dataclass
class NeedleSettings:
    """The needles: texts of every length with a fact at every depth, and as many tries of each.

    Raises ValueError for values that are no choice or do not fit.
    """

    lengths: list[str] = field(
        default_factory=lambda: ["2k", "8k", "32k"],
        metadata={"help": "Tokens of prompt and answer: 4096, or 4k, 128k, 1M (k is 1,024)."},
    )
    depths: list[int] = field(
        default_factory=lambda: [0, 25, 50, 75, 100],
        metadata={"help": "Where the needle stands, in percent of the text before it."},
    )
    keys: list[int] = field(
        default_factory=lambda: [1],
        metadata={"help": "Needles in a text, of which one is asked for; the others stand anywhere."},
    )
    one_text: bool = field(
        default=False,
        metadata={
            "help": "Hide one needle at each of --depths in the same text, and ask for one after the other: with "
            "--reuse_states the text is read once for all."
        },
    )
    samples: int = field(default=5, metadata={"help": "Texts for each length, depth and number of needles."})
    methods: list[str] = field(
        default_factory=lambda: [ALONE, "no", "bm25"],
        metadata={
            "help": "How the text is read. alone: by the language model as it is, within its positions; no: through a "
            "window; recent, random, bm25, dense, self or hybrid: looking back."
        },
    )
    max_new_tokens: int = field(default=24, metadata={"help": "Tokens of an answer."})
    plain_prompt: bool = field(default=False, metadata={"help": "Ask without the tokenizer's chat template."})
    seed: int = field(default=0, metadata={"help": "Of texts, needles and their places."})

    def __post_init__(self) -> None:
        check_fields(self, NeedleSettings)
        for name in ("lengths", "depths", "keys", "methods"):
            _check_several(name, getattr(self, name))
        for method in self.methods:
            if method == "oracle":
                raise ValueError("--methods oracle needs the answer, which is what is asked for: leave it out.")
            check_choice("--methods", method, METHODS)
        for depth in self.depths:
            if not 0 <= depth <= 100:
                raise ValueError(f"--depths {depth} must be from 0 to 100: it is in percent of the text.")
        for name, values in {
            "keys": self.keys,
            "samples": [self.samples],
            "max_new_tokens": [self.max_new_tokens],
        }.items():
            if min(values) < 1:
                raise ValueError(f"--{name} {min(values)} must be at least 1: raise it.")
        _check_several("lengths", self.sizes)
        if self.one_text and self.keys != [1]:
            shown = " ".join(map(str, self.keys))
            raise ValueError(
                f"--keys {shown} does nothing with --one_text, where a text has one needle for each of --depths: "
                "leave one of them out."
            )

    @property
    def sizes(self) -> list[int]:
        """The lengths in tokens."""
        return [length_of(length) for length in self.lengths]

    def cells(self) -> list[Cell]:
        """Every place of the picture, short texts first: what takes long comes last."""
        return [
            Cell(method, length, depth, keys)
            for length in sorted(self.sizes)
            for keys in ([len(self.depths)] if self.one_text else self.keys)
            for method in self.methods
            for depth in self.depths
        ]


def length_of(text: str) -> int:
    """The number of tokens that is meant; ValueError where none is.

    >>> length_of("4096"), length_of("128k"), length_of("1M")
    (4096, 131072, 1048576)
    """
    found = _LENGTH.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"--lengths {text!r} is no number of tokens: give one such as 4096, 4k or 1M.")
    return int(found[1]) * _UNITS[found[2].lower()]


def shown_length(length: int) -> str:
    """A number of tokens as it is said.

    >>> shown_length(131072), shown_length(2**20), shown_length(1000)
    ('128k', '1M', '1,000')
    """
    for name in ("m", "k"):
        if length % _UNITS[name] == 0:
            return f"{length // _UNITS[name]:,}{'M' if name == 'm' else name}"
    return f"{length:,}"


def _check_several(name: str, values: list) -> None:
    if not values:
        raise ValueError(f"--{name} is empty and must have one value or more: give one.")
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise ValueError(f"--{name} has {twice[0]!r} twice: once is enough.")
