"""The retriever inside a self-retrieval LM: a frozen backbone with a pooling, saved in the same repo."""

from typing import Any, Protocol

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedTokenizerBase


class TextEncoder(Protocol):
    """Any object that can serve as the `dense` retriever."""

    def encode(self, texts: list[str]) -> Any:
        """(n, d) array or tensor for n texts."""


class NestedRetriever(nn.Module):
    """A bi-encoder's backbone and settings, taken over from a BiEncoderModel or a SentenceTransformer.

    It is frozen and always in evaluation mode: training the LM does not change what is retrieved.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.backbone = AutoModel.from_config(config.retriever_config)
        self.config = config
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "NestedRetriever":
        return super().train(False)

    @torch.no_grad()
    def encode(self, texts: list[str], role: str = "passage", batch_size: int = 64) -> torch.Tensor:
        """(n, d) float32 embeddings on the CPU of n texts, in the order given; role is "query" or "passage"."""
        ids = [self._token_ids(text, role) for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        embeddings = torch.cat([self._embed([ids[i] for i in batch]) for batch in batches])
        return torch.empty_like(embeddings).index_copy(0, torch.tensor(order), embeddings)

    def _token_ids(self, text: str, role: str) -> list[int]:
        prompts = self.config.retriever_prompts or {}
        prefix, suffix = prompts.get(role) or "", prompts.get(f"{role}_suffix") or ""
        ending = self.tokenizer(suffix, add_special_tokens=False)["input_ids"] if suffix else []
        if self.config.retriever_append_eos:
            ending = [*ending, self.tokenizer.eos_token_id]
        room = self.config.retriever_max_length - len(ending)
        ids = self.tokenizer(prefix + text, truncation=True, max_length=room, add_special_tokens=True)["input_ids"]
        return ids + ending or [self.tokenizer.eos_token_id or 0]

    def _embed(self, ids: list[list[int]]) -> torch.Tensor:
        device = next(self.backbone.parameters()).device
        lengths = torch.tensor([len(row) for row in ids])
        input_ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
        mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        hidden = self.backbone(input_ids=input_ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        embeddings = self._pool(hidden.float().cpu(), mask, lengths)
        return nn.functional.normalize(embeddings, dim=-1) if self.config.retriever_normalize else embeddings

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(n, d) from right-padded states (n, length, d)."""
        if self.config.retriever_pooling == "cls":
            return hidden[:, 0]
        position = torch.arange(hidden.shape[1])
        first = {"mean": lengths, "last_token": 1, "mean_last_k": self.config.retriever_pooling_k}
        count = torch.as_tensor(first[self.config.retriever_pooling]).minimum(lengths)
        weight = mask * (position >= (lengths - count)[:, None])
        return torch.einsum("nld,nl->nd", hidden, weight.to(hidden)) / weight.sum(1, keepdim=True)


def encode_texts(retriever: TextEncoder, texts: list[str], role: str) -> torch.Tensor:
    """(n, d) float32 CPU embeddings from any retriever; ours is told the role, others are not.

    Raises ValueError where the retriever returns another number of embeddings than there are texts, or a NaN.
    """
    nested = isinstance(retriever, NestedRetriever)
    embeddings = retriever.encode(texts, role=role) if nested else retriever.encode(texts)
    embeddings = torch.as_tensor(embeddings).detach().to("cpu", torch.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(texts):
        raise ValueError(
            f"the retriever's encode returned shape {tuple(embeddings.shape)} for {len(texts)} texts; it must return "
            f"({len(texts)}, d), one embedding a text."
        )
    if embeddings.isnan().any():
        raise ValueError("the retriever's encode returned NaN; check its weights and its input texts.")
    return embeddings
