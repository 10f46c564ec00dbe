"""A Trainer that logs the parts of a loss, and for which accumulated micro-batches count as one batch.

Each part of the loss (a component) is a mean over items of its own: tokens, rows with a target, queries. A step over
several micro-batches and processes weighs each component of each micro-batch with its share of the step's items, so
that the gradient is that of the same rows in one batch, however the items are spread over the micro-batches.
"""

import contextlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, IterableDatasetShard, SkipBatchSampler
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import EvalLoopOutput

from ..data.transforms import StreamedRows


class ComponentMeans:
    """Running item-weighted means of loss components, kept on the device until they are read."""

    def __init__(self, num_components: int, device: torch.device):
        self.sums = torch.zeros(num_components, device=device, dtype=torch.float32)
        self.items = torch.zeros(num_components, device=device, dtype=torch.float32)

    def add(self, components: torch.Tensor, items: torch.Tensor) -> None:
        """`components` and `items`, both (n,): the means of one micro-batch, and what they are means over."""
        self.sums += components * items
        self.items += items


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
        self._means.add(parts.detach(), items)
        totals = items if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over the processes, shares are of the items of all processes.
        scale = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = self.combine(self.weigh(parts, outputs) * (scale * items / totals.clamp(min=1)), totals > 0)
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
        """Trainer's loop, with the components' means over the whole data set as `eval_<component>`."""
        half = self.args.bf16_full_eval or self.args.fp16_full_eval
        with self._separate_means(), own_dtype(self.model) if half else contextlib.nullcontext():
            with self.measuring(metric_key_prefix) as measured:
                output = super().evaluation_loop(
                    dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
                )
            means = self._read_means()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        return output._replace(metrics={**(output.metrics or {}), **metrics, **measured})

    @contextlib.contextmanager
    def measuring(self, prefix: str) -> Iterator[dict[str, float]]:
        """Around each loop over evaluation data; what the dictionary then holds, by full names, is logged too."""
        yield {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log; with a training loss come the components' means since the last one."""
        if "loss" in logs:
            logs.update(self._read_means())
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

    def _read_means(self) -> dict[str, float]:
        sums, items = self.accelerator.reduce(torch.stack([self._means.sums, self._means.items]), "sum")
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


class Filling(dict[str, Any]):
    """A batch of which no row counts: with it a process takes part in what the processes do together."""


# accelerate gives every process batches of one size: it fills the last ones of a pass up with rows from the start of
# the data. What a batch's loss is a mean over cannot be taken off again afterwards, so such rows leave the batch
# before the model sees it.
def drop_padding_rows(batch: dict[str, Any], accelerator: Accelerator) -> dict[str, Any]:
    """The batch without rows that only fill it up; a process that has nothing but such rows keeps one, as `Filling`.

    To be called while the data loader is at this batch.
    """
    if not accelerator.gradient_state.end_of_dataloader:
        return batch
    rows = find_batch_size(batch)
    real = _count_real(accelerator, rows)
    batch = batch if real == rows else first_rows(batch, max(real, 1), rows)
    return batch if real else Filling(batch)


def first_rows(batch: Any, count: int, rows: int) -> Any:
    """The first `count` of the `rows` rows of tensors and lists in nested dictionaries.

    What has several entries for each row (the passages of a query) keeps those of the rows that are kept.

    >>> first_rows({"query": [1, 2], "passage": {"ids": [1, 1, 2, 2]}, "flag": True}, count=1, rows=2)
    {'query': [1], 'passage': {'ids': [1, 1]}, 'flag': True}
    """
    if isinstance(batch, Mapping):
        return {name: first_rows(value, count, rows) for name, value in batch.items()}
    return batch[: len(batch) * count // rows] if hasattr(batch, "__len__") else batch


def _count_real(accelerator: Accelerator, rows: int) -> int:
    loader: Any = accelerator.gradient_state.active_dataloader
    sharded = isinstance(loader.dataset, IterableDatasetShard)
    stream = loader.dataset.dataset if sharded else loader.dataset
    if isinstance(stream, StreamedRows) and loader.num_workers <= 1:
        # Known now that it has ended; accelerate's truncation of the gathered losses needs it, too.
        loader.remainder = stream.num_rows % (loader.batch_size * accelerator.num_processes)
    if isinstance(loader.batch_sampler, SkipBatchSampler):
        loader.remainder = _remainder_behind(loader.batch_sampler.batch_sampler, len(loader.dataset))
    # `remainder` is the number of rows of the last joint batch, the first process's first; 0: it is full, -1: unknown.
    if accelerator.num_processes == 1 or loader.remainder <= 0:
        return rows
    return min(max(loader.remainder - accelerator.process_index * rows, 0), rows)


def _remainder_behind(sampler: Any, rows: int) -> int:
    """`remainder` of a resumed run's loader, which skips batches and so does not know their size; -1: unknown."""
    if not isinstance(sampler, BatchSamplerShard) or sampler.drop_last or sampler.batch_size is None:
        return -1
    return rows % (sampler.batch_size * (1 if sampler.split_batches else sampler.num_processes))
