"""Batches of streamed data, without an end, so that a resumed run finds its place; and loaders that share them out."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers.trainer_utils import seed_worker

from ..data.sources import Row
from ..data.transforms import StreamedRows

Item = TypeVar("Item")
Streamed = tuple[int, int, Row]  # epoch, row number, row


def order_seed(args: Any) -> int:
    """What the order of the rows is drawn by."""
    return args.seed if args.data_seed is None else args.data_seed


def share(batch: Sequence[Item], num_processes: int, process_index: int) -> Sequence[Item]:
    """The part of a joint batch that is for one process."""
    bounds = [len(batch) * index // num_processes for index in (process_index, process_index + 1)]
    return batch[bounds[0] : bounds[1]]


class StreamedBatches(torch.utils.data.IterableDataset):
    """Lists of examples, this process's share of each joint batch; all processes and workers read the same rows.

    A data set starts anew when it ends, within a batch: no batch is smaller than another, and a resumed run finds its
    place, as for transformers a stream's epoch has max_steps steps. Rows become token ids on their own process, in the
    worker whose turn it is.

    Args:
        streams: the data sets. batch_sizes: of each, on one process.
        shares: the probability of each.
        names: what the data sets are called where one is empty.
    """

    def __init__(
        self,
        streams: Sequence[StreamedRows],
        batch_sizes: Sequence[int],
        shares: Sequence[float],
        seed: int,
        names: Sequence[str],
        num_processes: int = 1,
        process_index: int = 0,
    ):
        self.streams, self.batch_sizes, self.shares, self.seed = streams, batch_sizes, shares, seed
        self.names, self.num_processes, self.process_index = names, num_processes, process_index

    def set_epoch(self, epoch: int) -> None:
        for stream in self.streams:
            stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[Row]]:
        worker = torch.utils.data.get_worker_info()
        turn, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, (which, rows) in enumerate(self._joint_batches()):
            if number % workers == turn:
                transform = self.streams[which].transform
                mine = share(rows, self.num_processes, self.process_index)
                yield [transform(row, row_number, epoch) for epoch, row_number, row in mine]

    def _joint_batches(self) -> Iterator[tuple[int, Sequence[Streamed]]]:
        """(number of the data set, rows of all processes)."""
        start = self.streams[0].epoch
        endless = [self._read_on(number, start) for number in range(len(self.streams))]
        generator = random.Random(f"{self.seed}-{start}-mixture")
        while True:
            (which,) = generator.choices(range(len(self.streams)), self.shares)
            yield which, list(itertools.islice(endless[which], self.batch_sizes[which] * self.num_processes))

    def _read_on(self, number: int, epoch: int) -> Iterator[Streamed]:
        for later in itertools.count(epoch):
            yield from self._read(number, later)

    def _read(self, number: int, epoch: int) -> Iterator[Streamed]:
        rows = self.streams[number].rows
        rows.set_epoch(epoch)
        count = 0
        # `iter`, unlike `__iter__`, does not divide the rows among the workers of a data loader.
        for batch in rows.iter(batch_size=1):
            yield epoch, count, {name: values[0] for name, values in batch.items()}
            count += 1
        if not count:
            raise ValueError(f"{self.names[number]} is empty; it needs one row or more.")


def stream_loader(
    stream: StreamedRows, collate: Callable[[list[Row]], Row], args: Any, accelerator: Accelerator, batch_size: int
) -> DataLoader:
    """A data loader of one stream's batches, `batch_size` rows on each process."""
    if args.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy!r} needs all rows before the first batch, and a "
            "stream gives them in its order: leave it out, or do not stream."
        )
    if args.accelerator_config.split_batches:  # a batch is then that of all processes
        batch_size = max(1, batch_size // accelerator.num_processes)
    places = {"num_processes": accelerator.num_processes, "process_index": accelerator.process_index}
    batches = StreamedBatches([stream], [batch_size], [1.0], order_seed(args), ["The streamed data set"], **places)
    return ready(DataLoader(batches, batch_size=None, **loader_keywords(args, collate)), accelerator)


def loader_keywords(args: Any, collate: Callable[[list[Row]], Row]) -> dict[str, Any]:
    """What the arguments say of a DataLoader."""
    return {
        "collate_fn": collate,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory,
        "persistent_workers": args.dataloader_persistent_workers,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "in_order": args.dataloader_in_order,
        "worker_init_fn": partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    }


def ready(loader: DataLoader, accelerator: Accelerator) -> DataLoader:
    """The loader of this process's own share, which accelerate puts on the device and does not share out again."""
    return prepare_data_loader(
        loader, accelerator.device, 1, 0, put_on_device=accelerator.device_placement, dispatch_batches=False,
        non_blocking=accelerator.non_blocking,
    )  # fmt: skip
