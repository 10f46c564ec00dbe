"""The long text that a needle is put into: documents as token ids, and the places where a line or sentence ends."""

import hashlib
import itertools
import random
import re
from collections.abc import Iterable, Iterator

import torch
from transformers import PreTrainedTokenizerBase

from modeling_srlm.tokenizers_srlm import text_ids

from ..data.documents import document_table, document_text
from ..embedded.corpus import standard_library

LONG_LINE = 401  # characters, its end among them; a longer line is cut at the ends of its sentences
LONGEST_PIECE = 128  # tokens; what has no ends is cut so
BATCH = 1000  # pieces that are tokenized at once
ROUND = 3  # a text of n tokens is cut from the first 3 n tokens, which lie in a ring
_SENTENCE = re.compile(r"(?<=[.!?]) +(?=\S)")  # the blanks behind it


class Haystack:
    """`tokens` (n,) ids of the texts, one behind the other; `ends` (m,), ascending: where a line or sentence ends.

    Args:
        more: gives the ids of further pieces, some at a time, which are read when a longer text is cut.
    """

    def __init__(self, tokens: torch.Tensor, ends: torch.Tensor, more: Iterable[list[list[int]]] = ()):
        self.tokens, self.ends = tokens, ends
        self._more = iter(more)

    @classmethod
    def of(cls, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, longest: int) -> "Haystack":
        """The texts up to what a test of `longest` tokens needs. Later ones are not read before they are needed.

        Raises ValueError where all of them together are shorter than `longest`.
        """
        pieces = (piece for text in texts for piece in split_text(text))
        batches = iter(lambda: list(itertools.islice(pieces, BATCH)), [])
        nothing = torch.empty(0, dtype=torch.long)
        stack = cls(nothing, nothing, (going_on(tokenizer, batch) for batch in batches))
        stack.read(ROUND * longest)
        if len(stack.tokens) < longest:
            raise ValueError(
                f"the texts hold {len(stack.tokens):,} tokens and must fill {longest:,}: give more of them, or "
                "shorter --lengths."
            )
        return stack

    def read(self, size: int) -> None:
        """Reads on until there are `size` tokens, or no more."""
        found: list[int] = []
        ends: list[int] = []
        begin = len(self.tokens)
        while begin + len(found) < size and (batch := next(self._more, None)):
            for ids in batch:
                ends += range(len(found) + LONGEST_PIECE, len(found) + len(ids), LONGEST_PIECE)
                found += ids
                ends.append(len(found))
        if found:
            places = torch.tensor(ends).unique() + begin
            self.tokens = torch.cat([self.tokens, torch.tensor(found)])
            self.ends = torch.cat([self.ends, places[places > begin]])

    def cut(self, length: int, draw: random.Random) -> "Haystack":
        """A text of `length` tokens that begins where a line or sentence does.

        It depends on the length, the draw and the texts, and not on how much of these was read: it comes from the
        first `ROUND` x length tokens, behind whose last comes the first.
        """
        self.read(ROUND * length)
        size = min(ROUND * length, len(self.tokens))
        ring, ends = self.tokens[:size], self.ends[self.ends <= size]
        starts = [0, *ends[ends < size].tolist()]
        start = starts[draw.randrange(len(starts))]
        turned = torch.cat([ends[ends > start] - start, ends[ends <= start] + size - start])
        return Haystack(ring.roll(-start)[:length], turned[turned <= length])

    def digest(self, length: int) -> str:
        """What other texts do not have, of all the tokens that texts of up to `length` tokens are cut from."""
        self.read(ROUND * length)
        return hashlib.sha256(self.tokens[: ROUND * length].numpy().tobytes()).hexdigest()[:16]

    def place(self, depth: float) -> int:
        """The end of a line or sentence that is nearest to `depth` percent of the text; for 0 its beginning."""
        places = torch.cat([self.ends.new_zeros(1), self.ends])
        return int(places[(places - depth / 100 * len(self.tokens)).abs().argmin()])


def split_text(text: str) -> Iterator[str]:
    """The lines of a text, each with its end as it is, and of long ones the sentences.

    The last line gets an end where it has none, as another text may follow.

    >>> list(split_text("One.\\r\\nTwo."))
    ['One.\\r\\n', 'Two.\\n']
    """
    lines = text.splitlines(keepends=True)
    if lines and lines[-1] == text.splitlines()[-1]:
        lines[-1] += "\n"
    for line in lines:
        start = 0
        if len(line) > LONG_LINE:
            for gap in _SENTENCE.finditer(line):
                yield line[start : gap.end()]
                start = gap.end()
        yield line[start:]


def going_on(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The token ids of texts that stand behind others: without the blank that some tokenizers put before a text."""

    def ids_of(*texts: str) -> list[list[int]]:
        return text_ids(tokenizer, texts)

    before, behind, alone = ids_of("\n", "\nx", "x")
    if behind == before + alone or behind[: len(before)] != before:
        return ids_of(*texts)
    marked = ids_of(*(f"\n{text}" for text in texts))
    ends = len(before)  # of the line before; a token that lies across it has no beginning of its own
    return [ids[ends:] if ids[:ends] == before else ids_of(text)[0] for text, ids in zip(texts, marked, strict=True)]


def read_texts(source: str | None, seed: int) -> Iterator[str]:
    """The texts of a file, folder or rows, in order; without a source the standard library's code, in a seeded order,
    whose form feeds are line ends.

    Raises ValueError for a row without text, naming its number.
    """
    if source is not None:
        yield from (document_text(row, where) for where, row in document_table(source))
        return
    documents = standard_library("train")
    random.Random(seed).shuffle(documents)
    yield from ("".join(f"{line}\n" for line in document.text.splitlines()) for document in documents)
