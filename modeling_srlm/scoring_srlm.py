"""Running assembled inputs through the language model, with logits only where a target is predicted."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import nn

from .assembly_srlm import ModelInput
from .chunking_srlm import UNKNOWN, Block, Document


def run_inputs(
    language_model: nn.Module, inputs: Iterable[ModelInput], batch_size: int
) -> Iterator[tuple[ModelInput, torch.Tensor]]:
    """Each input that has something to score, with its logits (m, V); inputs are taken as they are needed.

    Rows are padded on the right and nothing is masked: under causal attention what stands behind a scored position
    cannot change it, so neither can the rest of the batch.
    """
    waiting = (item for item in inputs if len(item.positions))
    while batch := list(islice(waiting, batch_size)):
        input_ids = nn.utils.rnn.pad_sequence([item.tokens for item in batch], batch_first=True)
        kept = torch.unique(torch.cat([item.positions for item in batch]))
        logits = language_model(input_ids=input_ids, logits_to_keep=kept, use_cache=False).logits
        for row, item in enumerate(batch):
            yield item, logits[row, torch.searchsorted(kept, item.positions)]


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


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(m,) negative log-likelihoods in nats, in float32, of (m, V) logits and (m,) labels; 0 where one is unknown."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none", ignore_index=UNKNOWN)


def target_of_token(document: Document, block: Block, tokens: torch.Tensor) -> torch.Tensor:
    """The number, counted from the block's first target chunk, of the target chunk that each token index lies in."""
    return (tokens + document.padding) // document.chunk_size - block.first_target
