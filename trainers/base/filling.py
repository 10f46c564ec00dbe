"""Rows that only fill up the last batch of several processes: they leave it before the model sees it.

accelerate gives every process batches of one size, and fills the last ones of a pass up with rows from the start of
the data. What a batch's loss is a mean over cannot be taken off again afterwards.
"""

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, IterableDatasetShard, SkipBatchSampler
from transformers.trainer_pt_utils import find_batch_size

from ..data.transforms import StreamedRows


class Filling(dict[str, Any]):
    """A batch of which no row counts: with it a process takes part in what the processes do together."""


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
