"""The retriever inside a self-retrieval LM: a frozen backbone with a pooling, saved in the same repo."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedTokenizerBase

from .checks_srlm import check_choice, check_fields, check_keywords, check_positive_int
from .placement_srlm import input_device
from .pooling_srlm import POOLINGS, check_dense, dense_layers, drop_pooler, finish, pool, project
from .prompting_srlm import PROMPT_KEYS, ROLES, embed_rows, text_list, tokenize_in_prompt
from .vocabulary_srlm import check_fit


class TextEncoder(Protocol):
    """Any object that can serve as the `dense` retriever."""

    def encode(self, texts: list[str]) -> Any:
        """(n, d) array or tensor for n texts."""


@dataclasses.dataclass
class RetrieverSettings:
    """How an embedding is made; names and meanings are those of a bi-encoder's config, `prompts` those of one task."""

    pooling: str = "last_token"
    pooling_k: int = 8
    dense: list[dict[str, Any]] | None = None
    normalize: bool = True
    bidirectional: bool = False
    append_eos: bool = False
    separate_prompts: bool = False
    max_length: int = 512
    prompts: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, RetrieverSettings)
        check_choice("pooling", self.pooling, POOLINGS)
        check_positive_int("pooling_k", self.pooling_k, "give the number of tokens to average")
        check_positive_int("max_length", self.max_length, "give the longest input in tokens")
        check_keywords(self.prompts, PROMPT_KEYS, "prompts")


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
        self.backbone = AutoModel.from_config(config.retriever_config)
        width = config.retriever_config.get_text_config().hidden_size
        check_dense(self.settings.dense, width)
        self.dense = dense_layers(self.settings.dense)
        self.width = self.settings.dense[-1]["out_features"] if self.settings.dense else width
        drop_pooler(self.backbone)
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self.load_tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None  # from where the weights came
        self.requires_grad_(False)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The retriever's own tokenizer, loaded when first needed.

        Raises ValueError if there is none, and for one with ids beyond the embeddings; so does setting it.
        """
        if self._tokenizer is None:
            if self.load_tokenizer is None:
                raise ValueError("the nested retriever has no tokenizer: set model.retriever.tokenizer to its own.")
            self.tokenizer = self.load_tokenizer()
        return cast(PreTrainedTokenizerBase, self._tokenizer)

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        if tokenizer is not None:
            check_fit(tokenizer, self.backbone.get_input_embeddings(), "the retriever's embeddings")
        self._tokenizer = tokenizer

    def train(self, mode: bool = True) -> "NestedRetriever":
        return super().train(False)

    @torch.no_grad()
    def encode(self, texts: list[str], role: str = "passage", batch_size: int = 64) -> torch.Tensor:
        """(n, d) float32 embeddings on the CPU of n texts, in the order given; role is "query" or "passage".

        They are those of the bi-encoder, and what it refuses is refused: a prompt that leaves no room for a text.
        """
        texts = text_list(texts)
        check_choice("role", role, ROLES)
        if not texts:
            return torch.zeros(0, self.width)
        prefix, suffix = (self.settings.prompts.get(key, "") for key in (role, f"{role}_suffix"))
        rows = tokenize_in_prompt(texts, prefix, suffix, self.tokenizer, self.settings)
        # By length: little padding.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
        batches = [[rows[i] for i in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
        device = input_device(self.backbone)
        embeddings = torch.cat([embed_rows(batch, self._embed, self.tokenizer, device) for batch in batches])
        return embeddings[torch.tensor(order).argsort()]

    def _embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask)[0]  # (n, length, d)
        pooled = pool(hidden.to(attention_mask.device), attention_mask, self.settings.pooling, self.settings.pooling_k)
        return finish(project(pooled, self.dense), self.settings.normalize)


def encode_texts(retriever: TextEncoder, texts: list[str], role: str) -> torch.Tensor:
    """(n, d) float32 CPU embeddings from any retriever; ours is told the role, others are not.

    Raises TypeError or ValueError where the retriever returns something else, or numbers that are not finite.
    """
    is_ours = isinstance(retriever, NestedRetriever)
    found = retriever.encode(texts, **({"role": role} if is_ours else {}))
    rule = f"it must return ({len(texts)}, d) numbers, one embedding a text: mend its encode."
    try:
        numbers = torch.as_tensor(found).detach()
        if numbers.is_complex() or numbers.dtype == torch.bool or numbers.layout != torch.strided:
            raise TypeError(f"{numbers.dtype}, {numbers.layout}")
        embeddings = numbers.to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"the retriever's encode returned a {type(found).__name__}; {rule}") from error
    if embeddings.ndim != 2 or len(embeddings) != len(texts) or not embeddings.shape[1]:
        raise ValueError(f"the retriever's encode returned shape {tuple(embeddings.shape)}; {rule}")
    if not embeddings.isfinite().all():
        raise ValueError("the retriever's encode returned NaN or infinity; check its weights and its input texts.")
    return embeddings
