"""The original self-retrieval LM on the task: same weights, same embeddings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from .reference import Given, load_reference
from .shapes import TextHash
from .srlm_plain import PlainSide
from .srlm_task import Scored, Task


class ReferenceSide:
    """The original's `SelfRetrievalLM`. It does not return what it retrieved, so that is read from its calls."""

    name = "FlagEmbedding"

    def __init__(self, task: Task, checkout: Path):
        self.task = task
        self.module = load_reference(checkout, "src.lm.modeling_srlm")
        loader = load_reference(checkout, "src.lm.modeling_lm")
        loader.AutoModelForCausalLM, loader.AutoTokenizer = Given(task.backbone), Given(task.tokenizer)
        self.dense = self._build(retrieval_method="dense", key_num=task.keys)
        self.tries_all = self._build(retrieval_method="oracle", key_num=1)

    def _build(self, **settings: Any) -> Any:
        task = self.task
        return self.module.SelfRetrievalLM(
            model_name_or_path="given", dtype="fp32", accelerator=SimpleNamespace(device=task.backbone.device),
            retriever=TextHash(), context_window_size=task.window, chunk_size=task.chunk, **settings,
        )  # fmt: skip

    def _loss(self, model: Any) -> float:
        ids = self.task.input_ids
        return float(model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=self.task.labels()).loss)

    def perplexity(self) -> Scored:
        """Its `dense` method; the keys are those it gathers values for."""
        kept: list[list[int]] = []
        take_values = type(self.dense)._get_retrieved_chunks

        def keep_indices(chunks: torch.Tensor, indices: torch.Tensor) -> Any:
            kept.extend(indices.tolist())
            return take_values(self.dense, chunks, indices)

        self.dense._get_retrieved_chunks = keep_indices
        return Scored(self._loss(self.dense), kept)

    def oracle(self) -> Scored:
        """Its `oracle` method; the keys are those of the lowest loss among its passes."""
        tried: list[torch.Tensor] = []
        hook = self.task.backbone.register_forward_hook(lambda _module, _args, output: tried.append(output.loss))
        try:
            loss = self._loss(self.tries_all)
        finally:
            hook.remove()
        losses = torch.stack(tried).view(self.task.num_targets, self.task.num_keys)
        return Scored(loss, losses.argmin(dim=1, keepdim=True).tolist())


def other_side(task: Task, checkout: Path | None) -> ReferenceSide | PlainSide:
    """The original where a checkout is given, otherwise our own straightforward implementation."""
    return PlainSide(task) if checkout is None else ReferenceSide(task, checkout)
