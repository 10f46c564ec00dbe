"""Where a text may be cut: behind its sentences, and where it has none (source code, verse, tables) behind its lines.

A rule of punctuation instead of a trained splitter: it needs no download and no dependency, is the same for every
language that ends sentences with . ! ? or their full-width forms, and where it is in doubt (initials, abbreviations,
ordinals) it does not cut, which costs a passage nothing but some of its length. (sentencex 1.0.32, which knows more
languages, cuts source code anywhere, loses blank lines of some texts, and fails at others that hold U+2028.)
"""

# ruff: noqa: RUF001  (typographic and full-width punctuation is meant)

import re
from collections.abc import Iterable
from itertools import pairwise

# Lines between blank lines are a block; blank lines belong to the block before, indentation to the line behind it.
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_LINE = re.compile(r"[^\n]*\n(?:[^\S\n]*\n)*|[^\n]+")
_WORD = re.compile(r"\S+\s*|\s+")
_CLOSING, _OPENING = "\"'”’»)\\]", "\"'“‘«„([¿¡"
_END = re.compile(rf"(?<![.!?…؟।])[.!?…؟।]+[{_CLOSING}]*\s+|[。！？]+[」』”’）]*\s*")
_LAST_END = re.compile(rf"[.!?…؟।。！？][{_CLOSING}」』）]*\s*\Z")
# Words that a capital letter follows within a sentence. Words of one letter, or with a period inside, need no entry.
_ABBREVIATIONS = frozenset(
    """al approx bspw bzw ca cf cie co col corp dept dr ed eds eq etc ev fig figs gen geb gov inc jr lt ltd mag max min
    mio mm mme mlle mr mrs ms mt nr no op pp prof rep resp rev sec sen sgt sog sr st str tab tel usw vgl vol vs
    zzgl""".split()  # noqa: SIM905  (as in stop_words.py)
)
# Of prose, 3 in 1,000 visible characters are symbols; of Python 100, and of 95 % of its blocks over 40.
_SYMBOLS = "{}[]()<>=_;|&$@#*+/\\^~`"
CODE_SYMBOLS = 0.05


def split_sentences(text: str) -> list[str]:
    """The sentences of `text` with the white space behind them, so that they join to the text.

    A blank line ends a sentence. In a block between blank lines that has no sentence end, or of whose visible
    characters more than `CODE_SYMBOLS` are symbols of programming languages, the lines stand for sentences.

    >>> split_sentences("Dr. Bell reads. Who answers?\\n\\nx = 1\\ny = 2")
    ['Dr. Bell reads. ', 'Who answers?\\n\\n', 'x = 1\\n', 'y = 2']
    """
    blocks = _cut(text, (match.end() for match in _BLANK_LINES.finditer(text)))
    return [piece for block in blocks for piece in (_block_sentences(block) or split_lines(block))]


def split_lines(text: str) -> list[str]:
    """The lines of `text` with their line ends and the blank lines behind them."""
    return _LINE.findall(text)


def split_words(text: str) -> list[str]:
    """The words of `text` with the white space behind them."""
    return _WORD.findall(text)


def split_anywhere(text: str) -> list[str]:
    """Runs of 8 characters of a text that has no better place to be cut; of a shorter one the characters."""
    step = 8 if len(text) > 8 else 1
    return [text[start : start + step] for start in range(0, len(text), step)]


def _block_sentences(block: str) -> list[str]:
    """The sentences of a block, none for a block that has to be split by lines."""
    ends = [match.end() for match in _END.finditer(block) if _ends_sentence(block, match)]
    visible = "".join(block.split())
    is_code = sum(map(visible.count, _SYMBOLS)) > CODE_SYMBOLS * len(visible)
    return [] if is_code or not (ends or _LAST_END.search(block)) else _cut(block, ends)


def _ends_sentence(block: str, match: re.Match[str]) -> bool:
    """Whether a new sentence follows the punctuation: not before a lower-case letter or behind an abbreviation."""
    following = block[match.end() : match.end() + 8].lstrip(_OPENING)
    if following[:1].islower():
        return False
    if match.group().rstrip() != ".":
        return True
    words = block[max(match.start() - 24, 0) : match.start()].split()
    word = words[-1].lstrip(_OPENING).lower() if words else ""
    is_ordinal = word.isdigit() and len(word) < 3
    return not (len(word) == 1 or "." in word or word in _ABBREVIATIONS or is_ordinal)


def _cut(text: str, ends: Iterable[int]) -> list[str]:
    """`text` cut at the given places, which ascend."""
    places = [0, *ends, len(text)]
    return [text[start:end] for start, end in pairwise(places) if start < end]
