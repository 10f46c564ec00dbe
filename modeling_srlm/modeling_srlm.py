"""SelfRetrievalLM: a language model that retrieves from its own past.

A long row is cut into chunks; each target chunk's predecessor is the query, the chunks before the window are the
keys, and the best keys' values (a chunk and the one after it) go into the input before the target is scored. The
semantics are those of LLM-Embedder's long-range language modelling (Zhang et al., 2023, arXiv 2310.07554).
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import tqdm

from .checks_srlm import check_inputs
from .chunking_srlm import Block, Document, ModelInput, assemble, cut_blocks, group_targets, split_rows
from .components_srlm import is_nestable, load_retriever, take_apart
from .configuration_srlm import SelfRetrievalConfig
from .dialogue_srlm import DialogueMixin
from .output_srlm import LogitsBuffer, Row, SelfRetrievalOutput, pad_rows, retrieval_fields, with_next_token
from .repository_srlm import HUB_KEYWORDS
from .retrieval_srlm import arrange
from .retriever_srlm import NestedRetriever, TextEncoder, without_pooler
from .scoring_srlm import run_inputs, score_keys, token_losses
from .selection_srlm import KeySelector
from .tokenizers_srlm import TwoTokenizers


class SelfRetrievalLM(DialogueMixin, TwoTokenizers):
    """A causal LM with a retriever over its own past. Build one with [`~SelfRetrievalLM.from_components`]."""

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
            model_kwargs, retriever_kwargs: passed to the `from_pretrained` of either (`revision`, `dtype`, ...).
            config: settings of [`SelfRetrievalConfig`].
        """
        if isinstance(model, str | Path):
            if tokenizer is None:
                hub_kwargs = {k: v for k, v in (model_kwargs or {}).items() if k in HUB_KEYWORDS}
                # Without a word on trust, transformers would ask at the terminal.
                trust = bool((model_kwargs or {}).get("trust_remote_code"))
                tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust, **hub_kwargs)
            model = AutoModelForCausalLM.from_pretrained(model, **(model_kwargs or {}))
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
        self._attach_retriever(retriever, nested)
        return self.train(model.training)

    def _attach_retriever(self, retriever: TextEncoder | None, nested: tuple | None) -> None:
        if nested is None:
            self.retriever = retriever
            return
        self.retriever.backbone, self.retriever.tokenizer = without_pooler(nested[0]), nested[1]
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
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_logits: bool = False,
    ) -> SelfRetrievalOutput:
        """Scores the labelled span of each row, block by block, with what each block retrieves.

        Args:
            input_ids: (B, L) token ids. attention_mask: (B, L), padding on either side.
            labels: (B, L), the tokens to score, -100 elsewhere; a label belongs to its own position. Without labels
                the logits of every position are returned and no loss.
            output_logits: with labels, also return logits (zero at positions that predict no label).

        Raises TypeError or ValueError for tensors that do not fit, a missing tokenizer or retriever.
        """
        check_inputs(input_ids, attention_mask, labels, self.config.text_config.vocab_size, self.device)
        self._check_components()
        rows = self._plan(input_ids, attention_mask, labels)
        inputs = [item for number, row in enumerate(rows) for item in self._inputs(number, row)]
        logits = LogitsBuffer(input_ids, attention_mask)
        if labels is None:
            return self._all_logits(rows, inputs, logits)
        return self._score(rows, inputs, logits if output_logits else None)

    def _check_components(self) -> None:
        self.config.check()
        if self.config.retrieval_method != "dense":
            return
        if self.retriever is None:
            raise ValueError(
                "retrieval_method is 'dense' and there is no retriever: give from_components(..., retriever=...), set "
                "model.retriever, or choose another method, such as 'bm25'."
            )
        if isinstance(self.retriever, NestedRetriever):
            self.retriever.tokenizer = self.retriever_tokenizer  # loaded on first need; ValueError if there is none

    @property
    def _replaces(self) -> bool:
        return self.config.integrate_method == "replace" and self.config.retrieval_method != "no"

    def _separator(self) -> torch.Tensor | None:
        return None if self.config.add_sep is None else torch.tensor(self.config.add_sep, device=self.device)

    def _cut(self, document: Document, replaces: bool) -> list[Block]:
        config = self.config
        room = config.max_target_size if replaces else config.context_window_size - config.chunk_size
        return cut_blocks(document, config.context_window_size, config.target_size, room, replaces)

    def _plan(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, labels: torch.Tensor | None
    ) -> list[Row]:
        """Documents, their blocks, and what each target retrieves."""
        tokenizer = self.tokenizer if self.config.retrieval_method == "dense" else None
        selector = KeySelector(self.config, self.language_model, self.retriever, tokenizer, self._separator())
        rows = []
        for document in split_rows(input_ids, attention_mask, labels, self.config.chunk_size):
            blocks = self._cut(document, self._replaces)
            rows.append(Row(document, blocks, selector.select(document, blocks)))
        return rows

    def _inputs(self, number: int, row: Row) -> Iterable[ModelInput]:
        for block, (indices, _) in zip(row.blocks, row.selections, strict=True):
            retrieved = [arrange(keys, self.config.order_method) for keys in indices.tolist()]
            for keys, targets in group_targets(block, retrieved):
                yield assemble(
                    row.document, block, number, keys, targets,
                    self.config.context_window_size, self._replaces, self._separator(),
                )  # fmt: skip

    def _score(self, rows: list[Row], inputs: list[ModelInput], logits: LogitsBuffer | None) -> SelfRetrievalOutput:
        losses, sums = [], [torch.zeros(2, len(row.targets)) for row in rows]
        for item, item_logits in run_inputs(self.language_model, inputs, self.config.chunk_batch_size):
            row = rows[item.row]
            losses.append(token_losses(item_logits, row.document.labels[item.targets]))
            row.count_losses(item.targets, losses[-1], sums[item.row])
            if logits is not None:
                logits.add(item, item_logits)
        if not losses:
            raise ValueError(
                "the only label stands on a row's first token, which nothing predicts; label a later one."
            )
        joined = torch.cat(losses)
        return SelfRetrievalOutput(
            loss=joined.mean(),
            logits=None if logits is None else logits.build(),
            target_losses=pad_rows([total / tokens for total, tokens in sums], float("nan")),
            num_scored_tokens=len(joined),
            **retrieval_fields(rows, self.config.key_num),
        )

    def _all_logits(self, rows: list[Row], inputs: list[ModelInput], logits: LogitsBuffer) -> SelfRetrievalOutput:
        inputs = [with_next_token(item, len(rows[item.row].document.tokens)) for item in inputs]
        for item, item_logits in run_inputs(self.language_model, inputs, self.config.chunk_batch_size):
            logits.add(item, item_logits)
        return SelfRetrievalOutput(logits=logits.build(), **retrieval_fields(rows, self.config.key_num))

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
        scores = []
        for block in blocks:
            keys = [key for key in columns if 0 <= key < block.num_keys]
            known = torch.tensor([0 <= key < block.num_keys for key in columns], dtype=torch.bool)
            part = torch.full((len(block.targets), len(columns)), float("-inf"))
            part[:, known] = score_keys(self.language_model, document, block, keys, self.config, self._separator())
            scores.append(part)
        return torch.cat(scores) if scores else torch.empty(0, len(columns))

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
            total += self._score_batch(batch)["loss"].double().cpu()
            batches += 1
        self.train(training)
        if not batches:
            raise ValueError("the dataloader gave no batch; perplexity needs at least one document.")
        return _mean_over_processes(math.exp(total / batches), self.device)

    def _score_batch(self, batch: dict[str, Any]) -> SelfRetrievalOutput:
        if "history" in batch:
            return self.forward_with_history_retrieval(**batch)
        return self(**{name: tensor.to(self.device) for name, tensor in batch.items()})


def _mean_over_processes(value: float, device: torch.device) -> float:
    if not torch.distributed.is_initialized():
        return value
    values = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(values)
    return float(values) / torch.distributed.get_world_size()


SelfRetrievalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["SelfRetrievalLM", "SelfRetrievalOutput"]
