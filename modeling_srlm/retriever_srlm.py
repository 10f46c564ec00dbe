"""The retriever inside a self-retrieval LM: a frozen backbone with a pooling, saved in the same repo."""

import dataclasses
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedTokenizerBase


class TextEncoder(Protocol):
    """Any object that can serve as the `dense` retriever."""

    def encode(self, texts: list[str]) -> Any:
        """(n, d) array or tensor for n texts."""


@dataclasses.dataclass
class RetrieverSettings:
    """How an embedding is made; names and meanings are those of a bi-encoder's config, `prompts` those of one task."""

    pooling: str = "last_token"
    pooling_k: int = 8
    normalize: bool = True
    bidirectional: bool = False
    append_eos: bool = False
    separate_prompts: bool = False
    max_length: int = 512
    prompts: dict[str, str] = dataclasses.field(default_factory=dict)


SETTING_NAMES = tuple(field.name for field in dataclasses.fields(RetrieverSettings))


class NestedRetriever(nn.Module):
    """The backbone and the settings of a BiEncoderModel or a SentenceTransformer.

    It is frozen and always in evaluation mode: training the LM does not change what is retrieved.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.settings = RetrieverSettings(**(config.retriever_settings or {}))
        if self.settings.bidirectional:
            config.retriever_config.is_causal = False  # transformers' masks and attention read it from there
        self.backbone = without_pooler(AutoModel.from_config(config.retriever_config))
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "NestedRetriever":
        return super().train(False)

    @torch.no_grad()
    def encode(self, texts: list[str], role: str = "passage", batch_size: int = 64) -> torch.Tensor:
        """(n, d) float32 embeddings on the CPU of n texts, in the order given; role is "query" or "passage"."""
        if self.tokenizer is None:
            raise ValueError("the nested retriever has no tokenizer: set model.retriever.tokenizer to its own.")
        ids = tokenize_in_prompt(texts, self.tokenizer, self.settings, role)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        embeddings = torch.cat([self._embed([ids[i] for i in batch]) for batch in batches])
        return torch.empty_like(embeddings).index_copy(0, torch.tensor(order), embeddings)

    def _embed(self, ids: list[list[int]]) -> torch.Tensor:
        device = next(self.backbone.parameters()).device
        lengths = torch.tensor([len(row) for row in ids], device=device)
        input_ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True).to(device)
        mask = (torch.arange(input_ids.shape[1], device=device) < lengths[:, None]).long()
        hidden = self.backbone(input_ids=input_ids, attention_mask=mask).last_hidden_state
        pooled = pool_right_padded(hidden.float(), lengths, self.settings.pooling, self.settings.pooling_k)
        return (nn.functional.normalize(pooled, dim=-1) if self.settings.normalize else pooled).cpu()


def without_pooler(backbone: nn.Module) -> nn.Module:
    """The backbone without BERT's pooler, which serves next-sentence prediction and not embeddings."""
    if "pooler" in dict(backbone.named_children()):
        backbone.register_module("pooler", None)
    return backbone


def tokenize_in_prompt(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, settings: RetrieverSettings, role: str
) -> list[list[int]]:
    """Token ids of each text in the role's prompt; where it is too long the text is cut, not what surrounds it."""
    prefix, suffix = settings.prompts.get(role, ""), settings.prompts.get(f"{role}_suffix", "")
    bare, full = (tokenizer(".", add_special_tokens=special)["input_ids"] for special in (False, True))
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    head, tail = full[:start], full[start + len(bare) :]
    if settings.append_eos and tail[-1:] != [tokenizer.eos_token_id]:
        tail = [*tail, tokenizer.eos_token_id]
    before, after = _ids(tokenizer, [prefix, suffix]) if settings.separate_prompts else ([], [])
    if not settings.separate_prompts:
        texts = [prefix + text for text in texts]
    room = settings.max_length - len(head) - len(tail) - len(before)
    rows = []
    for text in texts:
        ids = _ids(tokenizer, [text])[0]
        ending = after if settings.separate_prompts else _ids(tokenizer, [text + suffix])[0][len(ids) :]
        rows.append(head + before + ids[: room - len(ending)] + ending + tail or [tokenizer.eos_token_id or 0])
    return rows


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def pool_right_padded(hidden: torch.Tensor, lengths: torch.Tensor, pooling: str, k: int) -> torch.Tensor:
    """(n, d) from the states (n, length, d) of right-padded rows."""
    if pooling == "cls":
        return hidden[:, 0]
    count = {"mean": lengths, "last_token": torch.ones_like(lengths), "mean_last_k": lengths.clamp(max=k)}[pooling]
    position = torch.arange(hidden.shape[1], device=hidden.device)
    weight = (position >= (lengths - count)[:, None]) & (position < lengths[:, None])
    return torch.einsum("nld,nl->nd", hidden, weight.to(hidden)) / count[:, None]


def encode_texts(retriever: TextEncoder, texts: list[str], role: str) -> torch.Tensor:
    """(n, d) float32 CPU embeddings from any retriever; ours is told the role, others are not.

    Raises ValueError where the retriever returns another number of embeddings than there are texts, or a NaN.
    """
    is_ours = isinstance(retriever, NestedRetriever)
    found = retriever.encode(texts, **({"role": role} if is_ours else {}))
    embeddings = torch.as_tensor(found).detach().to("cpu", torch.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(texts):
        raise ValueError(
            f"the retriever's encode returned shape {tuple(embeddings.shape)} for {len(texts)} texts; it must return "
            f"({len(texts)}, d), one embedding a text."
        )
    if embeddings.isnan().any():
        raise ValueError("the retriever's encode returned NaN; check its weights and its input texts.")
    return embeddings
