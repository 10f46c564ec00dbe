"""Rows made into features as they are read.

The original rows stay in the `datasets` object (memory-mapped or streamed); a `transform` makes token ids of a row
only when a batch needs it. It is told the row number and the epoch, so that what it draws at random (negatives)
is the same after a resume, on every process and in every worker.
"""

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .sources import Row

# (row, row number, epoch) -> token ids of one example.
Transform = Callable[[Row, int, int], Row]


class TransformedRows(torch.utils.data.Dataset):
    """A map-style data set whose item i is `transform(rows[i], i, epoch)`."""

    def __init__(self, rows: datasets.Dataset, transform: Transform):
        if len(rows) == 0:
            raise ValueError("The data set is empty, and needs one row or more: give some.")
        self.rows = rows
        self.transform = transform
        # Shared, so that the persistent workers of a data loader see the epoch change.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.transform(self.rows[index], index, self.epoch)

    @property
    def epoch(self) -> int:
        """The epoch that `set_epoch` told."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)


class StreamedRows(torch.utils.data.IterableDataset):
    """The streaming counterpart of `TransformedRows`; the row number counts the rows as they come."""

    def __init__(self, rows: datasets.IterableDataset, transform: Transform):
        self.rows = rows
        self.transform = transform
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._num_rows = torch.zeros((), dtype=torch.long).share_memory_()

    def __iter__(self) -> Iterator[Row]:
        count = 0
        for index, row in enumerate(self.rows):
            yield self.transform(row, index, self.epoch)
            count = index + 1
        self._num_rows.fill_(count)

    @property
    def num_rows(self) -> int:
        """Rows of the last pass that reached the end."""
        return int(self._num_rows)

    @property
    def epoch(self) -> int:
        """The epoch that `set_epoch` told."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)
        self.rows.set_epoch(epoch)


def transform_rows(
    rows: datasets.Dataset | datasets.IterableDataset, transform: Transform
) -> TransformedRows | StreamedRows:
    """The rows with `transform` applied as they are read."""
    if isinstance(rows, datasets.IterableDataset):
        return StreamedRows(rows, transform)
    return TransformedRows(rows, transform)


class EpochCallback(TrainerCallback):
    """Tells a map-style data set the epoch.

    The data loader of accelerate does so too, but not with more than one process: it stops at the sampler there.
    """

    def __init__(self, dataset: TransformedRows):
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The state's epoch is a float that grows by steps: 1.9999999 is the start of epoch 2.
        self.dataset.set_epoch(int(state.epoch + 1e-6))
