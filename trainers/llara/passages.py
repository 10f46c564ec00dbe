"""A document's passages: as many whole sentences as fit into a number of tokens."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from .sentences import split_anywhere, split_lines, split_sentences, split_words

Splitter = Callable[[str], list[str]]
Piece = tuple[str, int]  # a text, and its length in tokens


def cut_passages(text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[str]:
    """The passages of a document, each of at most `room` tokens (special tokens not counted), without outer space.

    A passage takes sentences (see `split_sentences`) for as long as they fit. A sentence that is longer than a whole
    passage is cut into lines, a line into words, a word anywhere. Raises ValueError for a `room` under 1.
    """
    if room < 1:
        raise ValueError(f"room={room} must be at least 1: give the tokens that a passage may have.")
    pieces = _break_up(split_sentences(text.strip()), (split_lines, split_words, split_anywhere), tokenizer, room)
    passages, start = [], 0
    while start < len(pieces):
        end = _last_that_fits(pieces, start, tokenizer, room)
        if passage := _join(pieces, start, end):
            passages.append(passage)
        start = end
    return passages


def _break_up(
    texts: list[str], splitters: Sequence[Splitter], tokenizer: PreTrainedTokenizerBase, room: int
) -> list[Piece]:
    """The texts with their lengths, those that are longer than `room` split further; the last splitter again."""
    pieces: list[Piece] = []
    for text, length in zip(texts, _lengths(texts, tokenizer), strict=True):
        parts = splitters[0](text) if length > room else [text]
        # A text that its splitter leaves whole goes to the next one, a single character to nowhere.
        if length <= room or (len(parts) == 1 and len(splitters) == 1):
            pieces.append((text, length))
        else:
            pieces += _break_up(parts, splitters if len(splitters) == 1 else splitters[1:], tokenizer, room)
    return pieces


def _last_that_fits(pieces: list[Piece], start: int, tokenizer: PreTrainedTokenizerBase, room: int) -> int:
    """The largest end (at least start + 1) for which the pieces from `start` on, joined, have at most `room` tokens.

    The pieces' own lengths give a first guess: joined, they may have a few tokens more or less.
    """

    def fits(end: int) -> bool:
        return _lengths([_join(pieces, start, end)], tokenizer)[0] <= room

    end, total = start + 1, pieces[start][1]
    while end < len(pieces) and total + pieces[end][1] <= room:
        total += pieces[end][1]
        end += 1
    if fits(end):
        while end < len(pieces) and fits(end + 1):
            end += 1
    else:
        while end > start + 1 and not fits(end):
            end -= 1
    return end


def _join(pieces: list[Piece], start: int, end: int) -> str:
    return "".join(text for text, _ in pieces[start:end]).rstrip()


def _lengths(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not texts:
        return []
    return [
        len(ids)
        for ids in tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    ]
