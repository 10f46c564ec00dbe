"""What the rows with kept states share: one model in both modes, and what shows that a mode of other numbers is right.

Kept states and recomputed ones do not give the same figures, so a row of the two is gated by what both must equal: the
backbone's plain pass, where the window holds the whole text and nothing is retrieved.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from modeling_srlm import SelfRetrievalLM

from .options import Options
from .outcome import Check
from .shapes import SHAPES, random_backbone, random_document, word_tokenizer

TOLERANCE = 1e-4
SETTINGS: dict[str, Any] = {"context_window_size": 2048, "chunk_size": 128, "key_num": 8}
QUICK_SETTINGS: dict[str, Any] = {"context_window_size": 128, "chunk_size": 16, "key_num": 2}


@dataclass(frozen=True)
class Modes:
    """A model that keeps states, one that recomputes them around the same backbone, and a document (1, length)."""

    backbone: PreTrainedModel
    kept: SelfRetrievalLM
    exact: SelfRetrievalLM
    input_ids: torch.Tensor

    @property
    def chunk(self) -> int:
        return self.kept.config.chunk_size

    def labels(self, count: int | None = None) -> torch.Tensor:
        """(1, length): the last `count` tokens, -100 before them; None for all."""
        labels = self.input_ids.clone()
        labels[:, : 0 if count is None else -count] = -100
        return labels


def build_modes(size: str, length: int, options: Options, **settings: Any) -> Modes:
    """The models of a row, which retrieve by BM25: it costs next to nothing, and keys do not depend on the mode."""
    backbone, tokenizer = random_backbone(size, options.device), word_tokenizer(SHAPES[size].vocabulary)
    sizes = {**(QUICK_SETTINGS if options.quick else SETTINGS), **settings}
    kept, exact = (
        SelfRetrievalLM.from_components(
            backbone, tokenizer, retrieval_method="bm25", reuse_states=keeps, store_place="device", **sizes
        )
        for keeps in (True, False)
    )
    document = random_document(length, SHAPES[size].vocabulary).to(options.device)
    return Modes(backbone, kept, exact, document[None])


@torch.no_grad()
def equals_plain_pass(modes: Modes) -> Check:
    """The losses of a text that the window holds, without retrieval, against the backbone's own."""
    ids, config = modes.input_ids[:, : modes.kept.config.context_window_size], modes.kept.config
    method, config.retrieval_method = config.retrieval_method, "no"
    try:
        ours = modes.kept(ids, labels=ids, output_logits=True).logits[0, :-1]
    finally:
        config.retrieval_method = method
    plain = modes.backbone(input_ids=ids, use_cache=False).logits[0, :-1]
    losses = (torch.nn.functional.cross_entropy(one.float(), ids[0, 1:], reduction="none") for one in (ours, plain))
    first, second = losses
    apart = (first - second).abs().max().item()
    return Check(apart <= TOLERANCE, f"within the window the plain pass, losses {apart:.0e} apart")
