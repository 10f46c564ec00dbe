"""The chunks of a text as people read them: where they lie among its tokens, and their texts."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from modeling_srlm import SelfRetrievalConfig

CUT = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded to
MOST = 3  # tokens, of a byte each, of a character that are not its last


def grid_start(config: SelfRetrievalConfig, tokens: Sequence[int], length: int | None = None) -> int:
    """The place of the first chunk's first token, below 0 where the chunk is shorter than the others.

    The grid ends with the first `length` tokens (default: all), and with `reuse_states` it begins with the first one.
    """
    if config.reuse_states:
        return int(config.add_bos and list(tokens[:1]) == [config.bos_id])
    return -(-(len(tokens) if length is None else length) % config.chunk_size)


def chunk_texts(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], start: int, size: int) -> list[str]:
    """The text of each chunk of `size` tokens from the place `start` on. Together they are the text of the tokens.

    A chunk has the blank that it begins with, and a character that an end cuts stands where it is whole.
    """
    texts: list[str] = []
    known: list[int] = []  # of the chunk before, which says how the next one begins
    held: list[int] = []  # of a character that is not whole yet
    for first in range(start, len(tokens), size):
        held += tokens[max(first, 0) : first + size]
        most = 0 if first + size >= len(tokens) else MOST
        end, text = _whole(tokenizer, known, held, most)
        texts.append(text[len(_decoded(tokenizer, known)) :])
        known, held = held[:end] or known, held[end:]
    return texts


def _whole(tokenizer: PreTrainedTokenizerBase, known: list[int], new: list[int], most: int) -> tuple[int, str]:
    """How many of the new tokens, of whose last ones `most` may be left out, end with a whole character, and the text
    of the known ones and these. Where none do it is all of them: the text has the character that stands for a part."""
    for end in range(len(new), max(len(new) - most, 0) - 1, -1):
        text = _decoded(tokenizer, known + new[:end])
        if not text.endswith(CUT):
            return end, text
    return len(new), _decoded(tokenizer, known + new)


def _decoded(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    text = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # of one text
    return text
