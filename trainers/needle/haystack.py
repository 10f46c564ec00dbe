"""The long text that a needle is put into: documents as token ids, and the places where a line or sentence ends."""

import itertools
import random
import re
from collections.abc import Iterable, Iterator

import torch
from transformers import PreTrainedTokenizerBase

from ..data.documents import document_table, document_text
from ..embedded.corpus import standard_library

LONG_LINE = 400  # characters; such a line is cut at the ends of its sentences
LONGEST_PIECE = 128  # tokens; what has no ends is cut so
BATCH = 1000  # pieces that are tokenized at once
ROUND = 3  # a text of n tokens is cut from the first 3 n tokens, which lie in a ring
_SENTENCE = re.compile(r"(?<=[.!?]) +(?=\S)")  # the blanks behind it


class Haystack:
    """`tokens` (n,) ids of the texts, one behind the other; `ends` (m,), ascending: where a line or sentence ends."""

    def __init__(self, tokens: torch.Tensor, ends: torch.Tensor):
        self.tokens, self.ends = tokens, ends

    @classmethod
    def of(cls, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, longest: int) -> "Haystack":
        """The texts up to what a test of `longest` tokens needs. Later ones are not read.

        Raises ValueError where all of them together are shorter than `longest`.
        """
        pieces = (piece for text in texts for piece in split_text(text))
        found: list[int] = []
        ends: list[int] = []
        while len(found) < ROUND * longest and (batch := list(itertools.islice(pieces, BATCH))):
            for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                ends += range(len(found) + LONGEST_PIECE, len(found) + len(ids), LONGEST_PIECE)
                found += ids
                ends.append(len(found))
        if len(found) < longest:
            raise ValueError(
                f"the texts hold {len(found):,} tokens and must fill {longest:,}: give more of them, or shorter "
                "--lengths."
            )
        places = torch.tensor(ends).unique()
        return cls(torch.tensor(found), places[places > 0])

    def cut(self, length: int, draw: random.Random) -> "Haystack":
        """A text of `length` tokens that begins where a line or sentence does.

        It depends on the length, the draw and the texts, and not on how much of these was read: it comes from the
        first `ROUND` x length tokens, behind whose last comes the first.
        """
        size = min(ROUND * length, len(self.tokens))
        ring, ends = self.tokens[:size], self.ends[self.ends <= size]
        starts = [0, *ends[ends < size].tolist()]
        start = starts[draw.randrange(len(starts))]
        turned = torch.cat([ends[ends > start] - start, ends[ends <= start] + size - start])
        return Haystack(ring.roll(-start)[:length], turned[turned <= length])

    def place(self, depth: float) -> int:
        """The end of a line or sentence that is nearest to `depth` percent of the text; for 0 its beginning."""
        places = torch.cat([self.ends.new_zeros(1), self.ends])
        return int(places[(places - depth / 100 * len(self.tokens)).abs().argmin()])


def split_text(text: str) -> Iterator[str]:
    """The lines of a text, each with its end, and of long ones the sentences.

    >>> list(split_text("One.\\nTwo."))
    ['One.\\n', 'Two.\\n']
    """
    for line in text.splitlines():
        start = 0
        if len(line) > LONG_LINE:
            for gap in _SENTENCE.finditer(line):
                yield line[start : gap.end()]
                start = gap.end()
        yield f"{line[start:]}\n"


def read_texts(source: str | None, seed: int) -> Iterator[str]:
    """The texts of a file, folder or rows, in order; without a source the standard library's code, in a seeded order.

    Raises ValueError for a row without text, naming its number.
    """
    if source is not None:
        yield from (document_text(row, where) for where, row in document_table(source))
        return
    documents = standard_library("train")
    random.Random(seed).shuffle(documents)
    yield from (document.text for document in documents)
