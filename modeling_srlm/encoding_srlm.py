"""Embeddings of chunks: by the retriever, or from the language model's own states."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from .placement_srlm import to_inputs
from .retriever_srlm import NestedRetriever, TextEncoder, encode_texts
from .scoring_srlm import evaluating

# (token ids of n texts, role "query" or "key") -> (n, d) float32 on the CPU
Encode = Callable[[list[torch.Tensor], str], torch.Tensor]


def embed_role(retriever: TextEncoder, texts: list[str], role: str, instruction: dict | None) -> torch.Tensor:
    """Embeddings (n, d) of texts that serve as "query" or as "key", each behind its instruction."""
    prefix = instruction[role] if instruction else ""
    return encode_texts(retriever, [prefix + text for text in texts], "query" if role == "query" else "passage")


def retriever_encode(retriever: Any, tokenizer: PreTrainedTokenizerBase, instruction: dict | None) -> Encode:
    """Encodes chunks by their decoded text."""

    def encode(chunks: list[torch.Tensor], role: str) -> torch.Tensor:
        texts = tokenizer.batch_decode([chunk.tolist() for chunk in chunks], skip_special_tokens=True)
        return embed_role(retriever, texts, role, instruction)

    return encode


def state_encode(language_model: nn.Module, batch_size: int, bos: torch.Tensor | None) -> Encode:
    """Encodes a chunk as the normalised mean of the language model's last hidden states on it, read by itself."""

    def encode(chunks: list[torch.Tensor], role: str) -> torch.Tensor:
        order = sorted(range(len(chunks)), key=lambda i: len(chunks[i]))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        with evaluating(language_model):
            states = torch.cat([_mean_states(language_model, [chunks[i] for i in batch], bos) for batch in batches])
        return torch.empty_like(states).index_copy(0, torch.tensor(order), states)

    return encode


def _mean_states(language_model: Any, chunks: list[torch.Tensor], bos: torch.Tensor | None) -> torch.Tensor:
    """(n, d), zeros for a chunk without a token; padded on the right, unmasked: causal attention never looks there."""
    head = chunks[0].new_empty(0) if bos is None else bos.to(chunks[0])
    ids = nn.utils.rnn.pad_sequence([torch.cat([head, chunk]) for chunk in chunks], batch_first=True)
    ids = nn.functional.pad(ids, (0, int(not ids.shape[1])))  # texts without a token, of which the mean is zero
    (ids,) = to_inputs(language_model, ids)
    hidden = language_model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, len(head) :].float()
    lengths = torch.tensor([len(chunk) for chunk in chunks], device=hidden.device)
    real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    means = torch.einsum("nld,nl->nd", hidden, real.to(hidden)) / lengths.clamp(min=1)[:, None]
    return nn.functional.normalize(means, dim=-1).cpu()


def ignores_role(retriever: Any, instruction: dict | None) -> bool:
    """Whether a chunk's embedding is the same as query and as key."""
    if instruction is not None and instruction["query"] != instruction["key"]:
        return False
    prompts = retriever.settings.prompts if isinstance(retriever, NestedRetriever) else {}
    return all(prompts.get(f"query{end}", "") == prompts.get(f"passage{end}", "") for end in ("", "_suffix"))


class EmbeddingCache:
    """Embeddings kept from one training step to the next, by a chunk's tokens and role.

    Documents come again in every epoch; see `SelfRetrievalLM.embedding_cache`. Whoever changes the weights that made
    the embeddings calls `clear`.
    """

    def __init__(self) -> None:
        self.vectors: dict[tuple[str, bytes], torch.Tensor] = {}

    def clear(self) -> None:
        """Forgets every embedding, so that the next pass makes it anew."""
        self.vectors.clear()

    def wrap(self, encode: Encode) -> Encode:
        """`encode`, asked only for what is not kept yet."""

        def cached(chunks: list[torch.Tensor], role: str) -> torch.Tensor:
            names = [(role, chunk.cpu().numpy().tobytes()) for chunk in chunks]
            missing = {name: chunk for name, chunk in zip(names, chunks, strict=True) if name not in self.vectors}
            if missing:
                self.vectors |= dict(zip(missing, encode(list(missing.values()), role), strict=True))
            return torch.stack([self.vectors[name] for name in names])

        return cached


class ChunkTable:
    """The embeddings of one document's chunks in one role, each made once, when first needed."""

    def __init__(self) -> None:
        self.vectors = torch.empty(0, 0)
        self.known = torch.empty(0, dtype=torch.bool)

    def fill(self, chunks: Iterable[int], encode: Callable[[list[int]], torch.Tensor]) -> None:
        """Makes the embeddings of those chunks that have none yet; `encode`: chunk numbers -> (n, d)."""
        wanted = sorted(set(chunks))
        missing = [chunk for chunk in wanted if chunk >= len(self.known) or not self.known[chunk]]
        if not missing:
            return
        found = encode(missing)
        if len(self.known) and found.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"the retriever's embeddings are {self.vectors.shape[1]} and {found.shape[1]} wide and must be of one "
                "width: mend its encode."
            )
        size = max(len(self.known), missing[-1] + 1)
        vectors, known = found.new_zeros(size, found.shape[1]), torch.zeros(size, dtype=torch.bool)
        if len(self.known):
            vectors[: len(self.known)], known[: len(self.known)] = self.vectors, self.known
        vectors[missing], known[missing] = found, True
        self.vectors, self.known = vectors, known

    def cut(self, count: int) -> None:
        """Keeps what it has of the first `count` chunks."""
        self.vectors, self.known = self.vectors[:count], self.known[:count]

    def begin_with(self, other: "ChunkTable") -> None:
        """Takes over what another table has; `fill` never writes into that, so they may then go apart."""
        self.vectors, self.known = other.vectors, other.known
