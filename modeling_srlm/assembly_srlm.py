"""Putting retrieved values and the window together into inputs of the language model. No model runs here."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from .chunking_srlm import Block, Document


class ModelInput(NamedTuple):
    """One sequence for the backbone: `tokens` (length,); the logits at `positions` (m,) predict the document's tokens
    of index `targets` (m,)."""

    row: int
    tokens: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor


class InputLayout(NamedTuple):
    """What stands where in an input: [BOS | values of the retrieved keys, in the order given | window].

    `replace`: the values take the place of the window's oldest tokens. `separator` (n,) overwrites the last tokens of
    each value. `bos` (1,) stands before all, unless the input begins with it anyway; None for none.
    """

    window_size: int
    replace: bool
    separator: torch.Tensor | None
    bos: torch.Tensor | None

    def assemble(
        self, document: Document, block: Block, row: int, retrieved: tuple[int, ...], targets: list[int]
    ) -> ModelInput:
        """The input that scores the target chunks, cut after the last of them."""
        tokens, shift = self.tokens(document, block, retrieved, stop=targets[-1] + 1)
        scored = torch.cat([_scored_tokens(document, target) for target in targets])
        scored = scored[scored > 0]  # nothing of the document predicts its first token
        return ModelInput(row, tokens, scored + shift - 1, scored)

    def tokens(
        self, document: Document, block: Block, retrieved: tuple[int, ...], stop: int
    ) -> tuple[torch.Tensor, int]:
        """The tokens up to the chunk `stop`, and how much further right than in the document the window stands."""
        values = [self._value(document, key) for key in retrieved]
        start = self.window_start(document, block, len(retrieved))
        parts = [*values, document.tokens[start : document.chunk_start(stop)]]
        first = next((part[:1] for part in parts if len(part)), None)
        if self.bos is not None and not (first is not None and torch.equal(first, self.bos.to(first))):
            parts.insert(0, self.bos.to(document.tokens))
        tokens = torch.cat(parts)
        return tokens, len(tokens) - len(parts[-1]) - start

    def window_start(self, document: Document, block: Block, num_retrieved: int) -> int:
        """The index of the window's first token."""
        chunks = self.window_size // document.chunk_size - (2 * num_retrieved if self.replace else 0)
        return document.chunk_start(max(block.end - chunks, 0))

    def _value(self, document: Document, key: int) -> torch.Tensor:
        value = document.chunks(key, key + 2)
        if self.separator is None:
            return value
        return torch.cat([value[: -len(self.separator)], self.separator.to(value)])


def _scored_tokens(document: Document, target: int) -> torch.Tensor:
    start, end = document.chunk_start(target), document.chunk_start(target + 1)
    return (document.labels[start:end] != -100).nonzero().flatten() + start


def group_targets(block: Block, retrieved: list[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Targets that retrieved the same values in the same order share one input."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for target, keys in zip(block.targets, retrieved, strict=True):
        groups.setdefault(keys, []).append(target)
    yield from groups.items()
