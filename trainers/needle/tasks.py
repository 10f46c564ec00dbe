"""Needles, their questions and the prompts that hold both, in the words of RULER (Hsieh et al., 2024, 2404.06654)."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from modeling_srlm.tokenizers_srlm import text_ids

from .haystack import Haystack, going_on
from .settings import Cell

INTRODUCTION = (
    "Some special magic numbers are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the numbers afterwards.\n"
)
NEEDLE = "One of the special magic numbers for {key} is: {value}.\n"
QUESTION = "\nWhat is the special magic number for {key} mentioned in the provided text?"
ANSWER = "The special magic number for {key} mentioned in the provided text is"  # the model goes on from here
DIGITS = 7
_HOLE = "<<the text>>"
_KINDS = (
    "amber ancient autumn bitter blue bold brave bright broad calm cold copper coral crimson curious damp dark "
    "deep distant dry dusty early eager empty faint fancy fierce frozen gentle giant glad golden grand green "
    "hidden hollow humble icy idle ivory jolly kind late lively lonely long loud lucky mellow misty modest narrow "
    "noble odd old pale patient plain proud quick quiet rapid rare red rough round royal rusty scarlet sharp shy "
    "silent silver simple slow small smooth soft solid stormy sunny swift tall tidy tiny vast warm weary white "
    "wide wild wise young"
)
_THINGS = (
    "anchor apple arrow badger barn basket beacon bell birch bottle branch bridge brook bucket cabin candle "
    "canyon castle cedar cellar chapel chest cliff cloud compass cottage crane creek crown desert dune eagle "
    "falcon farm feather fern field forest fountain fox garden gate glacier harbor hawk hill horse island jacket "
    "kettle kite ladder lake lantern lemon lighthouse lion lodge maple market meadow mill mirror moon mountain "
    "nest oak ocean orchard otter owl palace pebble pine pond quarry raven river robin saddle sail shell spring "
    "stone tower trail valley village violin wagon well willow window wolf"
)


@dataclass(frozen=True)
class Task:
    """A question about a long text.

    Attributes:
        prompt: (length,) token ids, the beginning of the answer at their end.
        key, value: what is asked for, and the right answer.
        needle: the first token of the needle in the prompt, and the one behind its last.
    """

    prompt: torch.Tensor
    key: str
    value: str
    needle: tuple[int, int]


class TaskMaker:
    """Makes the tasks of a test: the same cell, sample and seed give the same task, whatever else is asked.

    Args:
        chat: whether the tokenizer's chat template stands around the prompt.
        room: tokens of a length that are kept for the answer.
        shared: the depths of the needles that one text holds, each asked for in a task of its own.
        bos: the token with which every prompt begins, for models trained so.
    """

    def __init__(
        self,
        haystack: Haystack,
        tokenizer: PreTrainedTokenizerBase,
        chat: bool,
        room: int,
        seed: int,
        shared: Sequence[int] = (),
        bos: int | None = None,
    ):
        self.haystack, self.tokenizer, self.chat = haystack, tokenizer, chat
        self.room, self.seed, self.shared, self.bos = room, seed, list(shared), bos

    def make(self, cell: Cell, sample: int) -> Task:
        """The task of a cell with this number; the same for every method. With `shared` depths those of one number
        have the same text, which leaves room for the longest of their questions.

        Raises ValueError where the length has no room for the needles.
        """
        draw = random.Random(f"{self.seed} {cell.length} {self.shared or cell.depth} {cell.keys} {sample}")
        keys, values = draw_needles(cell.keys, draw)
        needles = [self._behind(NEEDLE.format(key=key, value=value)) for key, value in zip(keys, values, strict=True)]
        asked = self.shared.index(cell.depth) if self.shared else 0
        before, after = self._around(keys[asked])
        longest = max(len(self._around(key)[1]) for key in (keys if self.shared else keys[:1]))
        free = cell.length - self.room - len(before) - longest - sum(map(len, needles))
        if free < 1:
            raise ValueError(
                f"--lengths {cell.length} must be at least {cell.length - free + 1} tokens, to hold question, answer "
                f"and --keys {cell.keys}: raise it."
            )
        text = self.haystack.cut(free, draw)
        depths: list[float] = [*self.shared] or [cell.depth, *(draw.uniform(0, 100) for _ in needles[1:])]
        ids, starts = _with_needles(text, needles, [text.place(depth) for depth in depths])
        first = len(before) + starts[asked]
        prompt = torch.cat([before, ids, after])
        return Task(prompt, keys[asked], values[asked], (first, first + len(needles[asked])))

    def _around(self, key: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What stands before the text, and behind it."""
        message = INTRODUCTION + _HOLE + QUESTION.format(key=key)
        written = in_template(self.tokenizer, message) if self.chat else f"{message}\n"
        before, _, after = written.partition(_HOLE)
        first = text_ids(self.tokenizer, [before])[0]
        if self.bos is not None and first[:1] != [self.bos]:  # some chat templates have it
            first = [self.bos, *first]
        return torch.tensor(first, dtype=torch.long), self._behind(after + ANSWER.format(key=key))

    def _behind(self, text: str) -> torch.Tensor:
        (ids,) = going_on(self.tokenizer, [text])
        return torch.tensor(ids, dtype=torch.long)


def in_template(tokenizer: PreTrainedTokenizerBase, message: str) -> str:
    """A user's message in the tokenizer's chat template, up to where the answer begins.

    Raises ValueError for a template that does not leave the message as it is.
    """
    template: Callable[..., Any] = tokenizer.apply_chat_template
    written = template([{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True)
    if written.count(message) != 1:
        raise ValueError(
            "the tokenizer's chat template does not leave a user's message as it is: give --plain_prompt, or mend it."
        )
    return written


def draw_needles(count: int, draw: random.Random) -> tuple[list[str], list[str]]:
    """Different keys and different values, as texts."""
    kinds, things = _KINDS.split(), _THINGS.split()
    most = len(kinds) * len(things)
    if count > most:
        raise ValueError(f"--keys {count} must be at most {most}, as many as there are names: lower it.")
    numbers = draw.sample(range(most), count)
    keys = [f"{kinds[number // len(things)]}-{things[number % len(things)]}" for number in numbers]
    values = draw.sample(range(10 ** (DIGITS - 1), 10**DIGITS), count)
    return keys, [str(value) for value in values]


def _with_needles(
    text: Haystack, needles: list[torch.Tensor], places: list[int]
) -> tuple[torch.Tensor, dict[int, int]]:
    """The text's ids with the needles at their places, and where the needle of each number begins."""
    parts: list[torch.Tensor] = []
    starts: dict[int, int] = {}
    done = length = 0
    for number in sorted(range(len(needles)), key=lambda one: (places[one], one == 0)):
        parts.append(text.tokens[done : places[number]])
        length += len(parts[-1])
        starts[number] = length
        parts.append(needles[number])
        done, length = places[number], length + len(needles[number])
    return torch.cat([*parts, text.tokens[done:]]), starts
