"""BiEncoderTrainer: contrastive fine-tuning of a bi-encoder, with distillation from a teacher's scores."""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_biencoder import BiEncoderConfig, BiEncoderModel, BiEncoderOutput
from modeling_biencoder.inputs_biencoder import check_max_length, check_truncate_dim
from modeling_biencoder.objectives_biencoder import LOSSES

from ..base.sharding import whole
from ..base.streams import order_seed
from ..base.trainer import FamilyTrainer
from ..data.padding import pad_id
from ..data.sources import Row
from ..data.transforms import StreamedRows, Transform, TransformedRows, transform_rows
from ..models.convert import build_biencoder
from ..models.kind import ModelSource
from ..retrieval.beir import check_retrieval_source
from .arguments import BiEncoderTrainingArguments
from .collator import BiEncoderCollator
from .entries import DataSetEntry, mixture_entries, plain_sources, settle_prompts
from .evaluation import RetrievalEvaluation
from .in_context import InContextExamples
from .loader import check_company, stream_shares, training_loader
from .mixture import MixedRows, MixedStream, MixturePart, load_part, mix
from .rows import biencoder_example


class BiEncoderTrainer(FamilyTrainer):
    """Trains a `BiEncoderModel`; see `FamilyTrainer` for the arguments, `RetrievalEvaluation` for `eval_dataset`.

    A LLaRA model (or its folder) as `model` gives a bi-encoder with LLaRA's prompts and pooling. Logged beside `loss`
    (and with `eval_` before it): contrastive_loss, distillation_loss and what else the arguments give a weight, means
    over the queries; at the narrower widths of `embedding_dims` as contrastive_loss_64 and so on.

    `train_dataset` may be several data sets: a list or a dictionary of them, with settings of their own as
    `DataSetEntry`s (see `mixture_entries`). A batch comes from one of them at a time, on all processes.

    Accumulated micro-batches give the gradient of the whole where a query meets its own passages alone
    (`in_batch_negatives=False`); in-batch negatives are those of the micro-batch, over all processes.

    Example::

        arguments = BiEncoderTrainingArguments("runs/retriever", train_group_size=4)
        trainer = BiEncoderTrainer("path/or/repo", arguments, train_dataset="pairs.jsonl")
        trainer.train()
    """

    arguments_class = BiEncoderTrainingArguments
    model_class = BiEncoderModel
    retrieval: RetrievalEvaluation
    _in_context: InContextExamples | None = None  # of the training data
    _retrieved: dict[str, float] | None = None  # metrics that are to be logged with the next losses

    @cached_property
    def loss_weights(self) -> dict[str, float]:
        """{name: weight} of all the losses that a batch may have."""
        config = self.model.config
        return self.args.objectives().names(config.embedding_dims, config.hidden_size)

    @property
    def component_names(self) -> tuple[str, ...]:
        """The losses by name, those of a narrower width with `_<width>` behind."""
        return tuple(self.loss_weights)

    def build_model(
        self, backbone: ModelSource, tokenizer: PreTrainedTokenizerBase | None, kwargs: dict[str, Any], kind: str
    ) -> PreTrainedModel:
        """A bi-encoder on a backbone; one that LLaRA adapted brings its prompts and pooling."""
        return build_biencoder(backbone, tokenizer, kind, **kwargs)

    def take_evaluators(self, source: Any) -> Any:
        """Keeps the retrieval data among the evaluation data, and returns the rest: rows."""
        self.retrieval = RetrievalEvaluation(self.args, self.model, source)
        # Trainer takes None for no evaluation at all.
        return {} if self.retrieval.rows is None and self.retrieval.evaluators else self.retrieval.rows

    def check_early(self, train_dataset: Any, eval_dataset: Any, model_kwargs: dict[str, Any]) -> None:
        """As in the base class, and for the place of the retrieval data."""
        super().check_early(train_dataset, eval_dataset, model_kwargs)
        if self.args.eval_retrieval is not None:
            check_retrieval_source(self.args.eval_retrieval)

    def check_sizes(self) -> None:
        """Lengths within the backbone's positions, widths within the embeddings'."""
        config = self.model.config
        for name in ("query_max_length", "passage_max_length"):
            self._cut_at(name)
        for width in self.args.eval_truncate_dims or ():
            check_truncate_dim(width, config.embedding_dims, config.hidden_size)

    def sources(self, source: Any) -> Iterable[Any]:
        """One or several data sets, see `plain_sources`."""
        return plain_sources(source)

    def evaluates(self, eval_dataset: Any) -> bool:
        """Whether there are rows or retrieval data."""
        return eval_dataset is not None or self.args.eval_retrieval is not None

    def metric_names(self) -> list[str]:
        """The losses that have a weight."""
        return [name for name, weight in self.loss_weights.items() if weight > 0]

    def other_metric_names(self) -> list[str]:
        """The retrieval metrics."""
        return self.retrieval.names()

    def prepare(self, source: Any) -> Any:
        """One data set as a data loader reads it; None and data sets that are prepared stay as they are."""
        if source is None or isinstance(source, TransformedRows | StreamedRows | MixedStream):
            return source
        entry = source if isinstance(source, DataSetEntry) else DataSetEntry(source)
        settle_prompts(self.model.config, [entry])
        part = load_part(entry, self.args)
        across = self.args.world_size if self.model.config.negatives_cross_device else 1
        check_company(part, self.args.eval_batch_size * across, self.args.dataloader_drop_last, trains=False)
        return transform_rows(part.rows, self.part_transform(part))

    def prepare_training(self, source: Any) -> Any:
        """One or several data sets (see `mixture_entries`), which give a batch in turn."""
        if source is None:
            return source
        prepared = isinstance(source, TransformedRows | StreamedRows | MixedStream)
        entries = [] if prepared else mixture_entries(source)
        settle_prompts(self.model.config, entries)
        self._in_context = self._make_in_context()
        if prepared:
            return source
        mixed = mix(entries, self.args, partial(self.part_transform, in_context=self._in_context is not None))
        if isinstance(mixed, MixedStream):
            stream_shares(mixed, self.args.mixture)
        return mixed

    def part_transform(self, part: MixturePart, in_context: bool = False) -> Transform:
        """A query and a group of its passages, drawn anew in each epoch."""
        in_batch = False if part.scored else part.in_batch_negatives
        return partial(
            biencoder_example,
            tokenizer=self.processing_class,
            query_config=self._cut_at("query_max_length"),
            passage_config=self._cut_at("passage_max_length"),
            group_size=part.group_size,
            seed=order_seed(self.args),
            # One passage has nothing to be compared with, unless its score is what there is to learn.
            use_teacher_scores=part.scored or (self.args.use_teacher_scores and part.group_size > 1),
            symmetric=part.symmetric,
            in_batch_negatives=None if in_batch == self.args.in_batch_negatives else in_batch,
            in_context=in_context and not part.scored,  # a pair that may be unlike is no example of an answer
        )

    def _make_in_context(self) -> InContextExamples | None:
        args = self.args
        if not args.max_examples:
            return None
        config = self._cut_at("query_max_length")
        return InContextExamples(
            self.processing_class, config, args.max_examples, args.fixed_examples, args.examples_max_length
        )

    def get_train_dataloader(self) -> DataLoader:
        """Batches of one data set at a time, each process's share of them."""
        if not isinstance(self.train_dataset, MixedRows | MixedStream):
            return super().get_train_dataloader()
        return training_loader(
            self.train_dataset, self.data_collator, self.args, self.accelerator, self._train_batch_size,
            self.model.config.negatives_cross_device,
        )  # fmt: skip

    def _cut_at(self, name: str) -> BiEncoderConfig:
        config, max_length = copy.copy(self.model.config), getattr(self.args, name)
        if max_length is not None:
            check_max_length(name, max_length, config.max_positions)
            config.max_length = max_length
        return config

    def make_collator(self) -> Callable[[list[Row]], Row]:
        """Padding on the tokenizer's side; the model takes either."""
        tokenizer = self.processing_class
        return BiEncoderCollator(pad_id(tokenizer), tokenizer.padding_side, self._in_context)

    def run_model(self, model: torch.nn.Module, inputs: dict[str, Any]) -> BiEncoderOutput:
        """The forward pass of a batch, with the negatives that it or the arguments ask for."""
        return model(
            **{"in_batch_negatives": self.args.in_batch_negatives, **inputs},
            objectives=self.args.objectives(),
            sub_batch_size=self.args.sub_batch_size,
            counted=self._rows_count,
        )

    def count_items(self, batch: dict[str, Any]) -> torch.Tensor:
        """Queries, for the losses that the batch has; 0 for the others."""
        queries = len(batch["query"]["input_ids"])
        in_batch = batch.get("in_batch_negatives", self.args.in_batch_negatives)
        group_size = len(batch["passage"]["input_ids"]) // queries
        present = self.args.objectives().present(group_size, in_batch, "teacher_scores" in batch)
        widths = len(self.component_names) // len(LOSSES)
        return torch.tensor([queries * (name in present) for name in LOSSES] * widths, dtype=torch.float32)

    def components(self, outputs: Any) -> list[torch.Tensor | None]:
        """Each loss as a mean over this process's queries."""
        return [outputs.losses.get(name) for name in self.component_names]

    def combine(self, components: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Their weighted sum."""
        return (components * components.new_tensor(list(self.loss_weights.values()))).sum()

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Losses and retrieval metrics; `eval_dataset` as in the constructor, or the name of one of its parts."""
        rows, evaluators = self.retrieval.chosen(eval_dataset, self.eval_dataset)
        if not evaluators:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        with self.accelerator.autocast(), whole(self.model):
            metrics = self.retrieval.measure(evaluators, self.model, metric_key_prefix)
        if not rows:
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics
        # One entry of the log, and one call of the callbacks: early stopping has to see the metric that it watches.
        self._retrieved = metrics
        try:
            losses = super().evaluate(None if eval_dataset is None else rows, ignore_keys, metric_key_prefix)
        finally:
            self._retrieved = None
        return {**losses, **metrics}

    @contextlib.contextmanager
    def measuring(self, prefix: str) -> Iterator[dict[str, float]]:
        """The retrieval metrics that stand beside these losses."""
        measured, self._retrieved = self._retrieved, None
        yield measured or {}
