"""Cutting a row into chunks, blocks and model inputs. Plain index arithmetic, no model.

A row's real tokens are laid on a grid of chunks of C tokens that ends where the last label ends, so the first chunk
may be shorter. The labelled span is scored block by block from its end; a block is the document cut at the block's
end, its last W tokens the window.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch


class Document(NamedTuple):
    """One row without its padding, cut after the last label.

    `tokens` and `labels` are (length,) long tensors (label -100: not scored); `chunk_size` is C.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    chunk_size: int

    @property
    def padding(self) -> int:
        """Tokens that the first chunk lacks."""
        return -len(self.tokens) % self.chunk_size

    def chunk_start(self, chunk: int) -> int:
        """The index of the first token of a chunk."""
        return max(chunk * self.chunk_size - self.padding, 0)

    def chunks(self, first: int, last: int) -> torch.Tensor:
        """The tokens of the chunks first..last-1."""
        return self.tokens[self.chunk_start(first) : self.chunk_start(last)]


class Block(NamedTuple):
    """The target chunks first_target..end-1 of a document cut after chunk `end`, with `num_keys` keys to retrieve."""

    first_target: int
    end: int
    num_keys: int

    @property
    def targets(self) -> range:
        return range(self.first_target, self.end)


class ModelInput(NamedTuple):
    """One sequence for the backbone: `tokens` (length,); the logits at `positions` (m,) predict the document's tokens
    of index `targets` (m,)."""

    row: int
    tokens: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor


def split_rows(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, labels: torch.Tensor | None, chunk_size: int
) -> list[Document]:
    """(B, L) tensors to one Document a row; without labels every token is a label."""
    documents = []
    for row, ids in enumerate(input_ids):
        real = slice(None) if attention_mask is None else attention_mask[row].bool()
        tokens = ids[real]
        row_labels = tokens if labels is None else labels[row][real]
        scored = (row_labels != -100).nonzero()
        end = int(scored[-1]) + 1 if len(scored) else 0
        documents.append(Document(tokens[:end].long(), row_labels[:end].long(), chunk_size))
    return documents


def cut_blocks(document: Document, window_size: int, target_size: int | None, max_target_size: int, replace: bool):
    """The blocks of a document in order of position; no blocks without labels.

    Keys are the chunks before the window that have a continuation before it as well; with `replace` the window's
    oldest chunks compete, too: chunks[: -W/C - 1] and chunks[: -W/C + 1] of the prefix.
    """
    scored = (document.labels != -100).nonzero()
    if not len(scored):
        return []
    chunk_size, length = document.chunk_size, len(document.tokens)
    first = (int(scored[0]) + document.padding) // chunk_size
    last = (length + document.padding) // chunk_size
    if target_size is None:
        whole = (last - first) * chunk_size
        half = max(window_size // 2 // chunk_size, 1) * chunk_size
        target_size = whole if whole <= max_target_size else min(half, max_target_size)
    step = target_size // chunk_size
    margin = -1 if replace else 1
    blocks = [
        Block(max(first, end - step), end, max(end - window_size // chunk_size - margin, 0))
        for end in range(last, first, -step)
    ]
    return blocks[::-1]


def assemble(
    document: Document,
    block: Block,
    row: int,
    retrieved: tuple[int, ...],
    targets: list[int],
    window_size: int,
    replace: bool,
    separator: torch.Tensor | None,
) -> ModelInput:
    """[values of the retrieved keys, in the order given | window], cut after the last target chunk."""
    values = [_value(document, key, separator) for key in retrieved]
    window_chunks = window_size // document.chunk_size - (2 * len(retrieved) if replace else 0)
    start = document.chunk_start(max(block.end - window_chunks, 0))
    window = document.tokens[start : document.chunk_start(targets[-1] + 1)]
    offset = sum(len(value) for value in values)
    scored = torch.cat([_scored_tokens(document, target) for target in targets])
    positions = scored - start + offset - 1
    predictable = positions >= 0  # nothing predicts the first token of all
    return ModelInput(row, torch.cat([*values, window]), positions[predictable], scored[predictable])


def _value(document: Document, key: int, separator: torch.Tensor | None) -> torch.Tensor:
    value = document.chunks(key, key + 2)
    if separator is None:
        return value
    return torch.cat([value[: -len(separator)], separator.to(value)])


def _scored_tokens(document: Document, target: int) -> torch.Tensor:
    start, end = document.chunk_start(target), document.chunk_start(target + 1)
    return (document.labels[start:end] != -100).nonzero().flatten() + start


def group_targets(block: Block, retrieved: list[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Targets that retrieved the same values in the same order share one input."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for target, keys in zip(block.targets, retrieved, strict=True):
        groups.setdefault(keys, []).append(target)
    yield from groups.items()
