"""What a forward pass returns, and how it is put together from the scored inputs."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from .assembly_srlm import ModelInput
from .chunking_srlm import Block, Document
from .scoring_srlm import target_of_token


@dataclass
class SelfRetrievalOutput(ModelOutput):
    """Result of a forward pass of [`SelfRetrievalLM`].

    Args:
        loss: scalar, sum of the scored tokens' losses over their number, in nats.
        logits: (B, L, V), at the row's own positions; None when labels are given, unless asked for.
        retrieved_indices: (B, n_target, k) chunk numbers (turn numbers in dialogue mode), most relevant first, -1
            where nothing was retrieved; the chunks of a row are counted from its first token's.
        retrieved_scores: (B, n_target, k), -inf where nothing was retrieved.
        target_indices: (B, n_target) chunk number of each target, -1 for padding.
        target_losses: (B, n_target) mean loss of each target's scored tokens, NaN for none; detached.
        num_scored_tokens: tokens that entered the loss.
        past_key_values: of `generate`: what it carries from token to token.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    retrieved_indices: torch.Tensor | None = None
    retrieved_scores: torch.Tensor | None = None
    target_indices: torch.Tensor | None = None
    target_losses: torch.Tensor | None = None
    num_scored_tokens: int | None = None
    past_key_values: Any = None


class Row:
    """One document on its way through a forward pass, and what is found out about its targets.

    All of it has its place before the first pass: small tensors that came in between the passes and stayed would break
    up the memory that the logits of one pass leave to the next.

    `shift`: tokens of the row before the document's first.
    """

    shift = 0

    def __init__(self, document: Document, blocks: list[Block], key_num: int):
        self.document, self.blocks = document, blocks
        self.targets = torch.tensor([target for block in blocks for target in block.targets], dtype=torch.long)
        count = len(self.targets)
        self.indices = torch.full((count, key_num), -1)
        self.scores = torch.full((count, key_num), float("-inf"))
        self.loss_sums, self.token_counts = torch.zeros(count), torch.zeros(count)

    def keep_selection(self, block: Block, indices: torch.Tensor, scores: torch.Tensor) -> None:
        """What the targets of a block retrieved, both (n_target, k)."""
        start = block.first_target - self.blocks[0].first_target
        self.indices[start : start + len(indices)] = indices
        self.scores[start : start + len(scores)] = scores

    def count_losses(self, targets: torch.Tensor, losses: torch.Tensor) -> None:
        """Adds the losses of the tokens of index `targets`, both (m,), to those of their target chunks."""
        column = target_of_token(self.document, self.blocks[0], targets).cpu()
        self.loss_sums.index_add_(0, column, losses.detach().float().cpu())
        self.token_counts.index_add_(0, column, torch.ones(len(column)))


def retrieval_fields(rows: list[Row]) -> dict[str, Any]:
    """The output's fields that say what each target retrieved, rows padded to one length."""
    return {
        "retrieved_indices": pad_rows([row.indices for row in rows], -1),
        "retrieved_scores": pad_rows([row.scores for row in rows], float("-inf")),
        "target_indices": pad_rows([row.targets for row in rows], -1),
    }


def pad_rows(rows: list[torch.Tensor], value: float) -> torch.Tensor:
    """(B, longest, ...) from B tensors (n, ...), padded behind."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


class LogitsBuffer:
    """Collects the logits (m, V) of the inputs into (B, L, V), zero where no input predicts.

    The logits that predict a row's token t stand at the position of its token t - 1.
    """

    def __init__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self.positions = [row.nonzero().flatten() for row in mask]
        self.shape = input_ids.shape
        self.rows: list[torch.Tensor] = []
        self.parts: list[torch.Tensor] = []

    def add(self, item: ModelInput, logits: torch.Tensor, shift: int = 0) -> None:
        """`shift`: tokens of the row before the document's first."""
        self.rows.append(item.row * self.shape[1] + self.positions[item.row][item.targets + shift - 1])
        self.parts.append(logits)

    def build(self) -> torch.Tensor:
        logits = torch.cat(self.parts)
        flat = logits.new_zeros(self.shape.numel(), logits.shape[-1]).index_copy(0, torch.cat(self.rows), logits)
        return flat.view(*self.shape, -1)
