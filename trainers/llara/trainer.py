"""LlaraTrainer: adapts a decoder language model to text embedding, without labels (Llama2Vec, arXiv 2312.15503)."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import datasets
import torch

from modeling_llara import LlaraForPreTraining
from modeling_llara.loss_llara import weigh_by_uncertainty

from ..base.trainer import FamilyTrainer
from ..data.padding import pad_id
from ..data.sources import Row, RowSource
from ..data.transforms import Transform
from ..jobs.idle import refuse_idle
from .arguments import LlaraTrainingArguments
from .collator import LlaraCollator
from .explain import PROMPTS, WordPrecision
from .rows import llara_example, load_llara_rows, passage_room

LOSS_WEIGHTING = "loss_weighting"  # the module of the model that holds learned weights


class LlaraTrainer(FamilyTrainer):
    """Trains a `LlaraForPreTraining`; see `FamilyTrainer` for the arguments.

    Logged beside `loss` (and with `eval_` before it): ar_loss, a mean over tokens, bow_summarize_loss and
    bow_predict_loss, means over the rows that have a target. Accumulated micro-batches give the gradient of the whole.
    In evaluation also summarize_precision@k and predict_precision@k: how many of the k likeliest words at the prompt's
    special tokens are in its target (`precision_k`; a mean over the rows that have one).
    With a LoRA as `peft_config` the rows of the prompts' special tokens train too, and the weights of the losses where
    the model learns them (`loss_weighting="uncertainty"`); those are logged as ar_weight, bow_summarize_weight and
    bow_predict_weight, and have a learning rate of their own.

    Example::

        trainer = LlaraTrainer("path/or/repo", LlaraTrainingArguments("runs/llara"), train_dataset="passages.jsonl")
        trainer.train()
    """

    arguments_class = LlaraTrainingArguments
    model_class = LlaraForPreTraining
    component_names = ("ar_loss", "bow_summarize_loss", "bow_predict_loss")
    _weights: torch.Tensor | None = None  # of the three losses, in the last forward pass
    _precision: WordPrecision | None = None  # there while an evaluation runs

    def new_token_ids(self) -> list[int]:
        """The special tokens of both prompts, too."""
        prompts = (*self.model.config.summarize_token_ids, *self.model.config.predict_token_ids)
        return sorted({*super().new_token_ids(), *prompts})

    def trained_modules(self) -> list[str]:
        """The learned weights of the losses."""
        return [] if self.model.loss_weighting is None else [LOSS_WEIGHTING]

    def metric_names(self) -> list[str]:
        """The losses, how many words are right, and the weights where they are learned."""
        precision = [f"{prompt}_precision@{self.args.precision_k}" for prompt in PROMPTS]
        weights = [name.replace("_loss", "_weight") for name in self.component_names if self.trained_modules()]
        return [*self.component_names, *precision, *weights]

    def check_sizes(self) -> None:
        """Room for a passage beside the prompts, within the backbone's positions; no more words than there are."""
        passage_room(self.model.config, self.args.max_length)
        if self.model.config.loss_weighting != "uncertainty":
            why = f"with loss_weighting={self.model.config.loss_weighting!r} of the model"
            refuse_idle(self.args, ["loss_weighting_learning_rate"], why, mark="")
        words = self.model.get_output_embeddings().weight.shape[0]
        if self.eval_dataset is not None and self.args.precision_k > words:
            raise ValueError(
                f"precision_k={self.args.precision_k} must be at most {words}, the words that there are: give fewer."
            )

    def load_rows(self, source: RowSource) -> datasets.Dataset | datasets.IterableDataset:
        """Rows with a passage and its targets, cut from documents where the data are text."""
        room = passage_room(self.model.config, self.args.max_length)
        return load_llara_rows(source, self.processing_class, room, streaming=self.args.streaming)

    def transform(self) -> Transform:
        """[passage | prompts], and the ids of the words that each prompt has to name."""
        return partial(
            llara_example,
            tokenizer=self.processing_class,
            config=self.model.config,
            max_length=self.args.max_length,
            stop_words=self.args.loaded_stop_words(),
        )

    def make_collator(self) -> Callable[[list[Row]], Row]:
        """Padding on the tokenizer's side."""
        return LlaraCollator(pad_id(self.processing_class), self.processing_class.padding_side)

    def count_items(self, batch: dict[str, Any]) -> torch.Tensor:
        """Labelled tokens, and rows with a target of each prompt.

        The first token of a row is never predicted, nor where padding is before it.
        """
        targets = [batch.get("output_summarize_ids"), batch.get("output_predict_ids")]
        # The examples hold no ids that the model ignores: whatever is not padding is a target.
        rows = [torch.tensor(0) if ids is None else (ids >= 0).any(1).sum() for ids in targets]
        mask = batch["attention_mask"].bool()
        counts = [((batch["labels"] >= 0) & mask)[:, 1:][mask[:, :-1]].sum(), *rows]
        return torch.stack([count.to(batch["labels"].device) for count in counts]).float()

    def run_model(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Any:
        """The forward pass of a batch; in evaluation its precision@k is counted along."""
        if self._precision is None:
            return super().run_model(model, inputs)
        outputs = model(**inputs, output_hidden_states=True)
        if self._rows_count:
            self._precision.add(self._precision.of_rows(outputs.hidden_states[-1], inputs))
        return outputs

    @contextlib.contextmanager
    def measuring(self, prefix: str) -> Iterator[dict[str, float]]:
        """Of each prompt the mean precision@k over the rows with a target."""
        precision = self._precision = WordPrecision(self.model, self.args.precision_k)
        measured: dict[str, float] = {}
        try:
            yield measured
        finally:
            self._precision = None
        precision.sums = self.accelerator.reduce(precision.sums, "sum")
        measured |= {f"{prefix}_{name}": value for name, value in precision.means().items()}

    def components(self, outputs: Any) -> list[torch.Tensor | None]:
        """The three losses, not weighted."""
        return [outputs.ar_loss, outputs.bow_summarize_loss, outputs.bow_predict_loss]

    def weigh(self, components: torch.Tensor, outputs: Any) -> torch.Tensor:
        """The three losses, weighted where the weights are learned."""
        if outputs.log_variances is None:
            return components
        self._weights = (-outputs.log_variances.detach()).exp()
        return weigh_by_uncertainty(components, outputs.log_variances)

    def combine(self, components: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """AR and the mean of the bag-of-words losses that are there, by the weights of the model's config.

        With learned weights the sum, in which a component without items has no share.
        """
        config = self.model.config
        if config.loss_weighting == "uncertainty":
            return components.sum()
        bag_of_words = components[1:].sum() / present[1:].sum().clamp(min=1)
        return config.ar_loss_weight * components[0] + config.bow_loss_weight * bag_of_words

    def readable(self, means: dict[str, float]) -> dict[str, float]:
        """The means, and the weights that were learned."""
        if self._weights is None or not means:
            return means
        names = [name.replace("_loss", "_weight") for name in self.component_names]
        return {**means, **dict(zip(names, self._weights.tolist(), strict=True))}

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's, with the learned weights of the losses in a group of their own, without weight decay."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        named = (self.model if model is None else model).named_parameters()
        weights = [value for name, value in named if LOSS_WEIGHTING in name and value.requires_grad]
        if made and weights:
            ids = {id(value) for value in weights}
            for group in optimizer.param_groups:
                group["params"] = [value for value in group["params"] if id(value) not in ids]
            group = {"params": weights, "lr": self.args.loss_weighting_learning_rate, "weight_decay": 0.0}
            optimizer.add_param_group(group)
        return optimizer
