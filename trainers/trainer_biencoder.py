"""BiEncoderTrainer: contrastive fine-tuning of a bi-encoder, with distillation from a teacher's scores."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_biencoder import BiEncoderConfig, BiEncoderModel, BiEncoderOutput

from .arguments import BiEncoderTrainingArguments
from .collators import BiEncoderCollator
from .conversion import build_biencoder
from .data_biencoder import biencoder_example, load_biencoder_rows
from .rows import Row, RowSource, Transform
from .tokens import pad_id
from .trainer_base import FamilyTrainer, ModelSource


class BiEncoderTrainer(FamilyTrainer):
    """Trains a `BiEncoderModel`; see `FamilyTrainer` for the arguments.

    A LLaRA model (or its folder) as `model` gives a bi-encoder with LLaRA's prompts and pooling. Logged beside `loss`
    (and with `eval_` before it): contrastive_loss and distillation_loss, means over the queries.

    Accumulated micro-batches give the gradient of the whole where a query meets its own passages alone
    (`in_batch_negatives=False`); in-batch negatives are those of the micro-batch, over all processes.

    Example::

        arguments = BiEncoderTrainingArguments("runs/retriever", train_group_size=4)
        trainer = BiEncoderTrainer("path/or/repo", arguments, train_dataset="pairs.jsonl")
        trainer.train()
    """

    arguments_class = BiEncoderTrainingArguments
    model_class = BiEncoderModel
    component_names = ("contrastive_loss", "distillation_loss")

    def build_model(
        self, backbone: ModelSource, tokenizer: PreTrainedTokenizerBase | None, kwargs: dict[str, Any]
    ) -> PreTrainedModel:
        """A bi-encoder on a backbone; one that LLaRA adapted brings its prompts and pooling."""
        return build_biencoder(backbone, tokenizer, **kwargs)

    def load_rows(self, source: RowSource) -> datasets.Dataset | datasets.IterableDataset:
        """Rows with a query, its passages and what a teacher thinks of them."""
        return load_biencoder_rows(source, self.args.train_group_size)

    def transform(self) -> Transform:
        """A query and a group of its passages, drawn anew in each epoch."""
        return partial(
            biencoder_example,
            tokenizer=self.processing_class,
            query_config=self._cut_at(self.args.query_max_length),
            passage_config=self._cut_at(self.args.passage_max_length),
            group_size=self.args.train_group_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            use_teacher_scores=self.args.use_teacher_scores,
        )

    def _cut_at(self, max_length: int | None) -> BiEncoderConfig:
        config = copy.copy(self.model.config)
        if max_length is not None:
            config.max_length = max_length
        return config

    def make_collator(self) -> Callable[[list[Row]], Row]:
        """Padding on the tokenizer's side; the model takes either."""
        return BiEncoderCollator(pad_id(self.processing_class), self.processing_class.padding_side)

    def run_model(self, model: torch.nn.Module, inputs: dict[str, Any]) -> BiEncoderOutput:
        """The forward pass of a batch, with the negatives that the arguments ask for."""
        return model(**inputs, in_batch_negatives=self.args.in_batch_negatives)

    def count_items(self, batch: dict[str, Any]) -> torch.Tensor:
        """Queries; for the distillation those of a batch with teacher scores."""
        queries = len(batch["query"]["input_ids"])
        return torch.tensor([queries, queries if "teacher_scores" in batch else 0], dtype=torch.float32)

    def components(self, outputs: Any) -> list[torch.Tensor | None]:
        """Both losses as means over this process's queries."""
        # With passages of all processes the model weighs its mean by the process's share of the queries, so that the
        # mean over processes is right; here that is the part of `compute_loss`, over micro-batches as well.
        share, passages = 1.0, len(outputs.p_reps)
        if self.args.in_batch_negatives and self.model.config.negatives_cross_device:
            share = passages * self.accelerator.num_processes / outputs.scores.shape[1]
        losses = [outputs.contrastive_loss, outputs.distillation_loss]
        return [None if loss is None else loss / share for loss in losses]

    def combine(self, components: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Their sum."""
        return components.sum()
