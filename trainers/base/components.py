"""A Trainer that logs the parts of a loss, and for which accumulated micro-batches count as one batch.

Each part of the loss (a component) is a mean over items of its own: tokens, rows with a target, queries. A step over
several micro-batches and processes weighs each component of each micro-batch with its share of the step's items, so
that the gradient is that of the same rows in one batch, however the items are spread over the micro-batches.
"""

import contextlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from .filling import Filling, drop_padding_rows


class ComponentMeans:
    """Running item-weighted means of loss components, kept on the device until they are read."""

    def __init__(self, num_components: int, device: torch.device):
        self.sums = torch.zeros(num_components, device=device, dtype=torch.float32)
        self.items = torch.zeros(num_components, device=device, dtype=torch.float32)
        self.terms = torch.zeros(num_components, device=device, dtype=torch.float32)

    def add(self, components: torch.Tensor, items: torch.Tensor, terms: torch.Tensor) -> None:
        """(n,) each: the means of one micro-batch, what they are means over, and their terms of the loss."""
        self.sums += components * items
        self.items += items
        self.terms += terms * items


class ComponentTrainer(Trainer):
    """Base of the three Trainers: what they share of loss, logging, evaluation and checkpoints.

    A subclass names its components and says how to read them from a batch and the model's output.
    """

    _rows_count = True  # False while a process is at rows that only fill up a batch

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # `compute_loss` weighs by the items of the whole step: training_step must not divide by the number of
        # micro-batches again. Trainer decides that by this attribute (transformers 5.20 to 5.23).
        self.model_accepts_loss_kwargs = True
        self._means = self._new_means()

    @property
    def component_names(self) -> tuple[str, ...]:
        """What the components are logged as; a subclass may name them in a class attribute."""
        raise NotImplementedError

    def count_items(self, batch: dict[str, Any]) -> torch.Tensor:
        """(n,) float32: how many items each component of this batch is a mean over; 0 for an absent component."""
        raise NotImplementedError

    def components(self, outputs: Any) -> list[torch.Tensor | None]:
        """The model's components in the order of `component_names`, None for an absent one."""
        raise NotImplementedError

    def weigh(self, components: torch.Tensor, outputs: Any) -> torch.Tensor:
        """(n,) terms of the loss from (n,) components of a micro-batch, where weights are learned: a term then counts
        with the micro-batch's share of its component's items, constant and all."""
        return components

    def combine(self, components: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """The loss from (n,) components, as `weigh` gives them; `present` (n,) bool: which have items in the step."""
        raise NotImplementedError

    def readable(self, means: dict[str, float]) -> dict[str, float]:
        """What is logged, given the means of the components that are present."""
        return means

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a micro-batch; `num_items_in_batch` (n,) are the items of its whole step."""
        self._rows_count = not isinstance(inputs, Filling)
        outputs = self.run_model(model, inputs)
        items = self.count_items(inputs).to(self.args.device) * self._rows_count
        zero = outputs.loss.float() * 0.0
        parts = torch.stack([zero if part is None else part.float() for part in self.components(outputs)])
        terms = self.weigh(parts, outputs)
        self._means.add(parts.detach(), items, terms.detach())
        totals = items if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over the processes, shares are of the items of all processes.
        scale = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = self.combine(terms * (scale * items / totals.clamp(min=1)), totals > 0)
        return (loss, outputs) if return_outputs else loss

    def run_model(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Any:
        """The forward pass of a batch."""
        return model(**inputs)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | None]:
        """The micro-batches of a step, and the (n,) items of the step over all processes."""
        # As they are taken: what fills up a batch is known while the data loader is at it.
        batches = [drop_padding_rows(batch, self.accelerator) for batch in islice(epoch_iterator, num_batches)]
        # A process without batches still has to take part in the reduction.
        items = torch.zeros(len(self.component_names), device=device)
        for batch in batches:
            items += 0 if isinstance(batch, Filling) else self.count_items(batch).to(device)
        return batches, self.accelerator.reduce(items, "sum")

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, None, None]:
        """The loss of an evaluation batch, whatever its keys: batches of nested dictionaries have no `labels`."""
        inputs = drop_padding_rows(self._prepare_inputs(inputs), self.accelerator)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Trainer's loop, with the components' means over the whole data set as `eval_<component>`.

        `eval_loss` is the loss of these means, as in training; Trainer's own depends on how rows fall into batches.
        Raises ValueError for data without a row, as those of a stream may turn out to be.
        """
        half = self.args.bf16_full_eval or self.args.fp16_full_eval
        with self._separate_means(), own_dtype(self.model) if half else contextlib.nullcontext():
            with self.measuring(metric_key_prefix) as measured:
                output = super().evaluation_loop(
                    dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
                )
            sums, items, terms = self._reduced()
        if not output.num_samples:
            raise ValueError("The evaluation data hold no row, or blank texts alone: give one that is not blank.")
        loss = {"loss": self.combine(terms / items.clamp(min=1), items > 0).item()} if items.any() else {}
        metrics = {**loss, **self._means_of(sums, items)}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return output._replace(metrics={**(output.metrics or {}), **metrics, **measured})

    @contextlib.contextmanager
    def measuring(self, prefix: str) -> Iterator[dict[str, float]]:
        """Around each loop over evaluation data; what the dictionary then holds, by full names, is logged too."""
        yield {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log; with a training loss come the components' means since the last one."""
        if "loss" in logs:
            sums, items, _ = self._reduced()
            logs.update(self._means_of(sums, items))
            self._means = self._new_means()
        super().log(logs, start_time)

    def _new_means(self) -> ComponentMeans:
        return ComponentMeans(len(self.component_names), self.args.device)

    @contextlib.contextmanager
    def _separate_means(self) -> Iterator[None]:
        training_means, self._means = self._means, self._new_means()
        try:
            yield
        finally:
            self._means = training_means

    def _reduced(self) -> torch.Tensor:
        """(3, n): sums, items and terms, over all processes."""
        means = self._means
        return self.accelerator.reduce(torch.stack([means.sums, means.items, means.terms]), "sum")

    def _means_of(self, sums: torch.Tensor, items: torch.Tensor) -> dict[str, float]:
        present = [i for i, count in enumerate(items.tolist()) if count > 0]
        return self.readable({self.component_names[i]: (sums[i] / items[i]).item() for i in present})


@contextlib.contextmanager
def own_dtype(model: Any) -> Iterator[None]:
    """Weights and buffers are afterwards what they were, to the bit: `bf16_full_eval` leaves the model in bfloat16."""
    weights = [(one, one.data) for one in model.parameters()]
    buffers = [(part, name, one) for part in model.modules() for name, one in part._buffers.items() if one is not None]
    try:
        yield
    finally:
        for weight, value in weights:
            if weight.dtype != value.dtype:
                weight.data = value.to(weight.device)
        for part, name, buffer in buffers:
            now = part._buffers[name]
            if now is not None and now.dtype != buffer.dtype:
                part._buffers[name] = buffer.to(now.device)
