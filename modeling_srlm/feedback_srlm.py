"""The language model's feedback on retrieval: how likely each target is under each candidate."""

from typing import Any

import torch

from .chunking_srlm import Block, Document, split_rows
from .inputs_srlm import check_inputs
from .oracle_srlm import score_keys


class FeedbackMixin:
    """Scoring of candidate keys; mixed into [`SelfRetrievalLM`]."""

    config: Any
    language_model: Any
    device: torch.device
    _cut: Any
    _layout: Any

    @torch.no_grad()
    def score_candidates(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        candidates: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Log-likelihood of each target chunk under each single candidate key: the LM's feedback on retrieval.

        Args:
            input_ids, attention_mask, labels: as in `forward`.
            candidates: (B, c) chunk numbers to try, -1 for none; default: every key.

        Returns (B, n_target, n_candidate) sums over the target's scored tokens, in nats; -inf where a candidate is
        not a key of the target's window. Without `candidates` the columns are the chunk numbers.
        """
        check_inputs(input_ids, attention_mask, labels, self.config.text_config.vocab_size, self.device)
        self.config.check()
        documents = split_rows(input_ids, attention_mask, labels, self.config.chunk_size)
        rows = [
            self._score_row(document, None if candidates is None else candidates[number].tolist())
            for number, document in enumerate(documents)
        ]
        height, width = (max(row.shape[axis] for row in rows) for axis in (0, 1))
        result = torch.full((len(rows), height, width), float("-inf"))
        for number, row in enumerate(rows):
            result[number, : row.shape[0], : row.shape[1]] = row
        return result

    def _score_row(self, document: Document, candidates: list[int] | None) -> torch.Tensor:
        blocks = self._cut(document, self.config.integrate_method == "replace")
        width = max((block.num_keys for block in blocks), default=0)
        columns = list(range(width)) if candidates is None else candidates
        scores = [self._score_block(document, block, columns) for block in blocks]
        return torch.cat(scores) if scores else torch.empty(0, len(columns))

    def _score_block(self, document: Document, block: Block, columns: list[int]) -> torch.Tensor:
        layout = self._layout(replace=self.config.integrate_method == "replace")
        known = torch.tensor([0 <= key < block.num_keys for key in columns], dtype=torch.bool)
        keys = [key for key in columns if 0 <= key < block.num_keys]
        scores = torch.full((len(block.targets), len(columns)), float("-inf"))
        scores[:, known] = score_keys(self.language_model, document, block, self.config, layout, keys)
        return scores
