"""Cutting a row into chunks and blocks. Plain index arithmetic, no model.

A row's real tokens are laid on a grid of chunks of C tokens that ends where the last label ends, so the first chunk
may be shorter. The labelled span is scored block by block from its end; a block is the document cut at the block's
end, its last W tokens the window. Of a row that was generated, grid and blocks begin where its prompt ends, as they
did in generation.
"""

from typing import NamedTuple

import torch

UNKNOWN = -1  # the label of a token that is predicted and not known


class Document(NamedTuple):
    """One row without its padding, cut after the last label.

    `tokens` and `labels` are (length,) long tensors (label -100: not predicted); `chunk_size` is C.
    `prompt_chunks`: of a row that was generated, the chunks of its prompt; the row's last chunk is then filled up.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    chunk_size: int
    prompt_chunks: int | None = None

    @property
    def padding(self) -> int:
        """Tokens that the first chunk lacks."""
        return -len(self.tokens) % self.chunk_size

    @property
    def num_labels(self) -> int:
        """Tokens with a label that something predicts."""
        return int((self.labels[1:] != -100).sum())

    def chunk_start(self, chunk: int) -> int:
        """The index of the first token of a chunk."""
        return max(chunk * self.chunk_size - self.padding, 0)

    def chunks(self, first: int, last: int) -> torch.Tensor:
        """The tokens of the chunks first..last-1."""
        return self.tokens[self.chunk_start(first) : self.chunk_start(last)]


class Block(NamedTuple):
    """The target chunks first_target..end-1 of a document cut after chunk `end`, with `num_keys` keys to retrieve.

    `stop`: where the document ends before the block does, the number of its chunks.
    """

    first_target: int
    end: int
    num_keys: int
    stop: int | None = None

    @property
    def targets(self) -> range:
        return range(self.first_target, self.end if self.stop is None else min(self.end, self.stop))


def split_rows(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    chunk_size: int,
    prompt_length: int | None = None,
) -> list[Document]:
    """(B, L) tensors to one Document a row; without labels every token is one, and so is the unknown one after them.

    So the logits of L tokens without labels are those that predict the L labels of L + 1 tokens. `prompt_length`: of
    rows that were generated, the columns of their prompts.
    """
    documents = []
    for row, ids in enumerate(input_ids):
        real = slice(None) if attention_mask is None else attention_mask[row].bool()
        tokens = ids[real]
        row_labels = tokens if labels is None else labels[row][real]
        if labels is None:
            row_labels = torch.nn.functional.pad(tokens, (0, 1), value=UNKNOWN)
            tokens = torch.nn.functional.pad(tokens, (0, 1))
        scored = (row_labels != -100).nonzero()
        end = int(scored[-1]) + 1 if len(scored) else 0
        document = Document(tokens[:end].long(), row_labels[:end].long(), chunk_size)
        if prompt_length is not None:
            mask = None if attention_mask is None else attention_mask[row, :prompt_length].bool()
            document = _on_grid_of_prompt(document, prompt_length if mask is None else int(mask.sum()))
        documents.append(document)
    return documents


def _on_grid_of_prompt(document: Document, prompt: int) -> Document:
    """The document filled up to the end of a chunk, on the grid that ends where its `prompt` tokens end."""
    size = document.chunk_size
    missing = (prompt - len(document.tokens)) % size
    tokens = torch.nn.functional.pad(document.tokens, (0, missing))
    labels = torch.nn.functional.pad(document.labels, (0, missing), value=-100)
    return Document(tokens, labels, size, (prompt + -prompt % size) // size)


def on_own_grid(document: Document) -> Document:
    """The document filled up to the end of a chunk, on the grid that begins with its first token."""
    return _on_grid_of_prompt(document, 0)


def block_size(document: Document, window_size: int, target_size: int | None, max_target_size: int) -> int:
    """Tokens of a block: `target_size`; or the labelled span if one window can score it, else half of the window."""
    if target_size is not None:
        return target_size
    first, last = _labelled_chunks(document)
    whole = max(last - first, 1) * document.chunk_size
    return whole if whole <= max_target_size else half_window(window_size, document.chunk_size, max_target_size)


def half_window(window_size: int, chunk_size: int, max_target_size: int) -> int:
    """Half of the window in whole chunks, where one window can score that many tokens."""
    return min(max(window_size // 2 // chunk_size, 1) * chunk_size, max_target_size)


def cut_blocks(document: Document, window_size: int, size: int, replace: bool) -> list[Block]:
    """The blocks of `size` tokens of a document in order of position, cut from its end; none without labels."""
    first, last = _labelled_chunks(document)
    step = size // document.chunk_size
    blocks = [
        make_block(max(first, end - step), end, window_size // document.chunk_size, replace)
        for end in range(last, first, -step)
    ]
    return blocks[::-1]


def cut_generated(document: Document, window_size: int, size: int, replace: bool) -> list[Block]:
    """The blocks of `size` tokens of a document that was generated: they begin where its prompt ends, and before that
    end there; the last one ends where generation would have ended it."""
    first, last = _labelled_chunks(document)
    step = size // document.chunk_size
    assert document.prompt_chunks is not None
    start = first - (first - document.prompt_chunks) % step
    blocks = [
        make_block(max(first, begin), begin + step, window_size // document.chunk_size, replace)
        for begin in range(start, last, step)
    ]
    return [block._replace(stop=last) for block in blocks if first < last]


def chunks_without_keys(window_chunks: int, replace: bool) -> int:
    """Chunks at the end of a document, cut after a block, that are no keys of the block.

    Keys are the chunks before the window that have a continuation before it as well; with `replace` the window's
    oldest chunks compete, too: chunks[: -W/C - 1] and chunks[: -W/C + 1] of the prefix.
    """
    return window_chunks + (-1 if replace else 1)


def make_block(first_target: int, end: int, window_chunks: int, replace: bool) -> Block:
    """The block of these target chunks, with its keys."""
    return Block(first_target, end, max(end - chunks_without_keys(window_chunks, replace), 0))


def _labelled_chunks(document: Document) -> tuple[int, int]:
    """The first chunk with a label, and the number of chunks; equal without labels."""
    scored = (document.labels != -100).nonzero()
    last = (len(document.tokens) + document.padding) // document.chunk_size
    return (int(scored[0]) + document.padding) // document.chunk_size if len(scored) else last, last
