"""SelfRetrievalLM: a language model that retrieves from its own past.

A long row is cut into chunks; each target chunk's predecessor is the query, the chunks before the window are the
keys, and the best keys' values (a chunk and the one after it) go into the input before the target is scored. The
semantics are those of LLM-Embedder's long-range language modelling (Zhang et al., 2023, arXiv 2310.07554).
"""

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import tqdm

from .chat_srlm import ChatMixin
from .chunking_srlm import split_rows
from .components_srlm import is_nestable, load_retriever, take_apart
from .configuration_srlm import SelfRetrievalConfig
from .dialogue_srlm import DialogueMixin
from .encoding_srlm import EmbeddingCache
from .feedback_srlm import FeedbackMixin
from .generation_srlm import LookbackGenerationMixin, RetrievalState
from .inputs_srlm import check_inputs
from .loading_srlm import backbone_keywords, commit_of, tokenizer_keywords
from .output_srlm import LogitsBuffer, Row, SelfRetrievalOutput, pad_rows, retrieval_fields
from .planning_srlm import PlanningMixin
from .pooling_srlm import drop_pooler
from .retriever_srlm import NestedRetriever, TextEncoder
from .scoring_srlm import run_inputs, sum_dtype, token_losses
from .tokenizers_srlm import TwoTokenizers


class SelfRetrievalLM(ChatMixin, DialogueMixin, FeedbackMixin, LookbackGenerationMixin, PlanningMixin, TwoTokenizers):
    """A causal LM with a retriever over its own past. Build one with [`~SelfRetrievalLM.from_components`].

    Attributes:
        embedding_cache: None, or an [`EmbeddingCache`] that keeps chunk embeddings from one training step to the
            next; evaluation does not look at it.
    """

    config_class = SelfRetrievalConfig
    base_model_prefix = "language_model"
    _tied_weights_keys = {}  # noqa: RUF012  (none here; as a dict it sends peft to those of the backbone)
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean already: the Trainer must not multiply it by its accumulation
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: SelfRetrievalConfig):
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.retriever = NestedRetriever(config) if config.retriever_config is not None else None
        self.embedding_cache: EmbeddingCache | None = None
        self.post_init()

    @classmethod
    def from_components(
        cls,
        model: PreTrainedModel | str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        retriever: TextEncoder | str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        retriever_kwargs: dict[str, Any] | None = None,
        **config: Any,
    ) -> "SelfRetrievalLM":
        """A self-retrieval LM around a causal LM and a retriever.

        Args:
            model: a causal LM, or the Hub id or folder of one.
            tokenizer: the LM's own; default: the one beside `model` when that is an id or a folder.
            retriever: a BiEncoderModel, a SentenceTransformer or a bi-encoder's Hub id or folder (saved inside this
                model's repo), or any object with `encode(list[str]) -> (n, d)` (given anew after loading).
            model_kwargs, retriever_kwargs: passed to the `from_pretrained` of either (`revision`, `dtype`, ...). Where
                they do not say so, no code of a repo is run and no pickle is read.
            config: settings of [`SelfRetrievalConfig`].
        """
        if isinstance(model, str | Path):
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(model, **tokenizer_keywords(model_kwargs or {}))
            source, loading = model, backbone_keywords(model_kwargs or {})
            model = AutoModelForCausalLM.from_pretrained(source, **loading)
            model.config._commit_hash = commit_of(source, loading)  # for the card, which names its base
        if isinstance(retriever, str | Path):
            retriever = load_retriever(str(retriever), **(retriever_kwargs or {}))
        nested = take_apart(retriever) if is_nestable(retriever) else None
        if nested is None and retriever is not None and not callable(getattr(retriever, "encode", None)):
            raise TypeError(
                f"retriever is a {type(retriever).__name__} without encode(list[str]) -> (n, d) embeddings."
            )
        settings = SelfRetrievalConfig(text_config=model.config, **(nested[2] if nested else {}), **config)
        with torch.device("meta"):
            self = cls(settings)
        self.language_model = model
        self._tokenizer = tokenizer
        if model.generation_config is not None:
            self.generation_config = copy.deepcopy(model.generation_config)
        self._attach_retriever(retriever, nested)
        return self.train(model.training)

    def _attach_retriever(self, retriever: TextEncoder | None, nested: tuple | None) -> None:
        if nested is None:
            self.retriever = retriever
            return
        drop_pooler(nested[0])
        self.retriever.backbone, self.retriever.tokenizer = nested[0], nested[1]
        self.retriever.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_logits: bool = False,
        show_progress: bool = False,
        past_key_values: RetrievalState | None = None,
        return_dict: bool = True,
        query: list[str] | None = None,
        history: list[list[str]] | None = None,
        answer: list[str] | None = None,
        history_mask: torch.Tensor | None = None,
    ) -> SelfRetrievalOutput | tuple:
        """Scores the labelled span of each row, block by block, with what each block retrieves.

        Args:
            input_ids: (B, L) token ids. attention_mask: (B, L), padding on either side.
            labels: (B, L), the tokens to score, -100 elsewhere; a label belongs to its own position. Without labels
                the logits of every position are returned and no loss: `model(ids[:, :-1]).logits` are those that
                `model(ids, labels=ids)` scores `ids` by.
            output_logits: with labels, also return logits (zero at positions that predict no label).
            show_progress: a progress bar over the scored tokens, where there is more than one block.
            past_key_values: of `generate`, for the next token alone.
            return_dict: False for a plain tuple.
            query, history, answer, history_mask: in place of all that, a dialogue: `forward_with_history_retrieval`.

        Raises TypeError or ValueError for tensors that do not fit, a missing tokenizer or retriever.
        """
        if query is not None and history is not None and answer is not None:
            return self.forward_with_history_retrieval(query, history, answer, history_mask)
        if input_ids is None:
            raise ValueError("there are no input_ids; give them, or query, history and answer of a dialogue.")
        if past_key_values is not None:
            return self._continue(input_ids, attention_mask, past_key_values)
        check_inputs(input_ids, attention_mask, labels, self.config.text_config.vocab_size, self.device)
        self._check_components()
        documents = split_rows(input_ids, attention_mask, labels, self.config.chunk_size)
        rows = [Row(document, self._cut(document, self._replaces), self.config.key_num) for document in documents]
        logits = LogitsBuffer(input_ids, attention_mask)
        if labels is None:
            output = self._all_logits(rows, logits)
        else:
            output = self._score(rows, logits if output_logits else None, show_progress)
        return output if return_dict else output.to_tuple()

    def _score(self, rows: list[Row], logits: LogitsBuffer | None, show_progress: bool) -> SelfRetrievalOutput:
        total, count = torch.zeros((), device=self.device, dtype=sum_dtype(self.device)), 0
        long = any(len(row.blocks) > 1 for row in rows)
        bar = tqdm(total=sum(row.document.num_labels for row in rows), unit="token", leave=False,
                   desc=f"Scoring ({self.config.retrieval_method})", disable=not (show_progress and long))  # fmt: skip
        for item, item_logits in run_inputs(self.language_model, self._inputs(rows), self.config.chunk_batch_size):
            losses = token_losses(item_logits, rows[item.row].document.labels[item.targets])
            rows[item.row].count_losses(item.targets, losses)
            total, count = total + losses.sum(dtype=total.dtype), count + len(losses)
            bar.update(len(losses))
            if logits is not None:
                logits.add(item, item_logits)
        bar.close()
        if not count:
            raise ValueError(
                "the only label stands on a row's first token, which nothing predicts; label a later one."
            )
        return SelfRetrievalOutput(
            loss=(total / count).float(),
            logits=None if logits is None else logits.build(),
            target_losses=pad_rows([row.loss_sums / row.token_counts for row in rows], float("nan")),
            num_scored_tokens=count,
            **retrieval_fields(rows),
        )

    def _all_logits(self, rows: list[Row], logits: LogitsBuffer) -> SelfRetrievalOutput:
        for item, item_logits in run_inputs(self.language_model, self._inputs(rows), self.config.chunk_batch_size):
            logits.add(item, item_logits)
        return SelfRetrievalOutput(logits=logits.build(), **retrieval_fields(rows))

    @torch.no_grad()
    def compute_perplexity(self, dataloader: Iterable[dict[str, Any]], show_progress: bool = True) -> float:
        """exp of the mean over batches of the batch's mean token loss, averaged over processes.

        Args:
            dataloader: batches of keyword arguments of `forward`, or of `forward_with_history_retrieval`.
        """
        training = self.training
        self.eval()
        total, batches = torch.zeros((), dtype=torch.float64), 0
        for batch in tqdm(dataloader, desc=f"Perplexity ({self.config.retrieval_method})", disable=not show_progress):
            total += self._score_batch(batch, show_progress)["loss"].double().cpu()
            batches += 1
        self.train(training)
        if not batches:
            raise ValueError("the dataloader gave no batch; perplexity needs at least one document.")
        return _mean_over_processes(math.exp(total / batches), self.device)

    def _score_batch(self, batch: dict[str, Any], show_progress: bool) -> SelfRetrievalOutput:
        batch = {
            name: part.to(self.device) if isinstance(part, torch.Tensor) else part for name, part in batch.items()
        }
        return self(**batch, show_progress=show_progress)


def _mean_over_processes(value: float, device: torch.device) -> float:
    if not torch.distributed.is_initialized():
        return value
    values = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(values)
    return float(values) / torch.distributed.get_world_size()


SelfRetrievalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["SelfRetrievalLM", "SelfRetrievalOutput"]
