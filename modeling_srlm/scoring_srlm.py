"""Running assembled inputs through the language model, with logits only where a target is predicted."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import nn

from .assembly_srlm import ModelInput
from .chunking_srlm import UNKNOWN, Block, Document
from .placement_srlm import is_dispatched, to_inputs

LOOKAHEAD = 16  # batches' worth of inputs among which those of one shape are looked for
LONG = 1024  # an input of so many tokens keeps the device busy by itself
LOSS_ROWS = 64  # rows of logits whose losses are taken at once


def run_inputs(
    language_model: nn.Module, inputs: Iterable[ModelInput], batch_size: int
) -> Iterator[tuple[ModelInput, torch.Tensor]]:
    """Each input that has something to score, with its logits (m, V), not in the order given.

    Rows are padded on the right and nothing is masked: under causal attention what stands behind a scored position
    cannot change it, so neither can the rest of the batch.
    """
    for batch in _batches(inputs, batch_size):
        input_ids = nn.utils.rnn.pad_sequence([item.tokens for item in batch], batch_first=True)
        kept = torch.unique(torch.cat([item.positions for item in batch]))
        # Of a model on several devices the logits come from the last one, which is not told here.
        (placed,), places = to_inputs(language_model, input_ids), kept.cpu() if is_dispatched(language_model) else kept
        logits = language_model(input_ids=placed, logits_to_keep=places, use_cache=False).logits.to(input_ids.device)
        for row, item in enumerate(batch):
            # Indexing copies; inputs of one shape score at the same positions, and need none.
            alike = len(item.positions) == len(kept)
            yield item, logits[row] if alike else logits[row, torch.searchsorted(kept, item.positions)]


def _batches(inputs: Iterable[ModelInput], batch_size: int) -> Iterator[list[ModelInput]]:
    """Batches that waste little: long inputs together with those of the same length that score at the same positions,
    short ones with those of a similar length. Inputs are taken as they are needed, some batches ahead."""
    waiting = (item for item in inputs if len(item.positions))
    while window := list(islice(waiting, LOOKAHEAD * batch_size)):
        groups: dict[tuple[int, ...], list[ModelInput]] = {}
        for item in sorted(window, key=lambda item: len(item.tokens)):
            shape = len(item.tokens), len(item.positions), int(item.positions[0])
            groups.setdefault(shape if len(item.tokens) >= LONG else (), []).append(item)
        for group in groups.values():
            for start in range(0, len(group), batch_size):
                yield group[start : start + batch_size]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradient and without dropout: what retrieval asks of a model that may be in training."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def sum_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which losses are summed up: a document may have a hundred thousand of them."""
    return torch.float32 if device.type == "mps" else torch.float64


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(m,) negative log-likelihoods in nats, in float32, of (m, V) logits and (m,) labels; 0 where one is unknown."""
    parts = zip(logits.split(LOSS_ROWS), labels.split(LOSS_ROWS), strict=True)
    return torch.cat(
        [
            nn.functional.cross_entropy(rows.float(), row_labels, reduction="none", ignore_index=UNKNOWN)
            for rows, row_labels in parts
        ]
    )


def target_of_token(document: Document, block: Block, tokens: torch.Tensor) -> torch.Tensor:
    """The number, counted from the block's first target chunk, of the target chunk that each token index lies in."""
    return (tokens + document.padding) // document.chunk_size - block.first_target
