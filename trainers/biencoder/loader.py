"""The data loader for training on one or several data sets, each process's share of every batch."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers.trainer_utils import seed_worker
from transformers.utils import logging

from ..data.sources import Row
from .batches import MixtureBatchSampler, SampledSet, mixture_shares, share
from .mixture import MixedRows, MixedStream, MixturePart

logger = logging.get_logger(__name__)
Streamed = tuple[int, int, Row]  # epoch, row number, row


class StreamedBatches(torch.utils.data.IterableDataset):
    """Lists of examples, this process's share of each joint batch; all processes and workers read the same rows.

    A data set starts anew when it ends, within a batch: no batch is smaller than another, and a resumed run finds its
    place, as for transformers a stream's epoch has max_steps steps. Rows become token ids on their own process, in the
    worker whose turn it is.

    Args:
        stream: the data sets. batch_sizes: of each, on one process.
        shares: the probability of each.
    """

    def __init__(
        self,
        stream: MixedStream,
        batch_sizes: Sequence[int],
        shares: Sequence[float],
        seed: int,
        num_processes: int = 1,
        process_index: int = 0,
    ):
        self.stream, self.batch_sizes, self.shares, self.seed = stream, batch_sizes, shares, seed
        self.num_processes, self.process_index = num_processes, process_index

    def set_epoch(self, epoch: int) -> None:
        self.stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[Row]]:
        worker = torch.utils.data.get_worker_info()
        turn, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, (which, rows) in enumerate(self._joint_batches()):
            if number % workers == turn:
                transform = self.stream.streams[which].transform
                mine = share(rows, self.num_processes, self.process_index)
                yield [transform(row, row_number, epoch) for epoch, row_number, row in mine]

    def _joint_batches(self) -> Iterator[tuple[int, Sequence[Streamed]]]:
        """(number of the data set, rows of all processes)."""
        streams = self.stream.streams
        start = streams[0].epoch
        endless = [self._read_on(number, start) for number in range(len(streams))]
        generator = random.Random(f"{self.seed}-{start}-mixture")
        while True:
            (which,) = generator.choices(range(len(streams)), self.shares)
            yield which, list(itertools.islice(endless[which], self.batch_sizes[which] * self.num_processes))

    def _read_on(self, number: int, epoch: int) -> Iterator[Streamed]:
        for later in itertools.count(epoch):
            yield from self._read(number, later)

    def _read(self, number: int, epoch: int) -> Iterator[Streamed]:
        rows = self.stream.streams[number].rows
        rows.set_epoch(epoch)
        count = 0
        # `iter`, unlike `__iter__`, does not divide the rows among the workers of a data loader.
        for batch in rows.iter(batch_size=1):
            yield epoch, count, {name: values[0] for name, values in batch.items()}
            count += 1
        if not count:
            raise ValueError(f"Data set {self.stream.parts[number].name!r} is empty; it needs one row or more.")


def stream_shares(stream: MixedStream, mixture: str) -> list[float]:
    """The probability of each streamed data set; ValueError where it would take the sizes, which streams lack."""
    weights = [part.weight for part in stream.parts]
    if len(weights) > 1 and mixture != "equal" and None in weights:
        without = next(part.name for part in stream.parts if part.weight is None)
        raise ValueError(
            f"mixture={mixture!r} takes the sizes of the data sets, and streams have none: set mixture='equal', or "
            f"give each data set a weight ({without!r} has none)."
        )
    shares = mixture_shares([1] * len(weights), weights, "equal", 1.0)
    return [1.0] if shares is None else shares


def training_loader(
    dataset: MixedRows | MixedStream,
    collate: Callable[[list[Row]], Row],
    args: Any,
    accelerator: Accelerator,
    batch_size: int,
    in_batch_across: bool = True,
) -> DataLoader:
    """A data loader that gives each process its own share, so that accelerate does not have to.

    `batch_size` is that of a process for data sets without one of their own; it differs from the arguments' where
    transformers changes it (`auto_find_batch_size`, several GPUs in one process), and then these are scaled with it.
    `in_batch_across` says whether queries meet the passages of all processes.

    Raises ValueError for a data set whose batches hold one query with one passage.
    """
    processes, index = accelerator.num_processes, accelerator.process_index
    if args.accelerator_config.split_batches:  # a batch is then that of all processes
        batch_size = max(1, batch_size // processes)
    scale = batch_size / args.per_device_train_batch_size
    sizes = [batch_size if one.batch_size is None else max(1, int(one.batch_size * scale)) for one in dataset.parts]
    across = processes if in_batch_across else 1
    for part, size in zip(dataset.parts, sizes, strict=True):
        check_company(part, size * across, args.dataloader_drop_last)
    seed = args.seed if args.data_seed is None else args.data_seed
    places: dict[str, Any] = {"num_processes": processes, "process_index": index}
    keywords: dict[str, Any] = {
        "collate_fn": collate,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory,
        "persistent_workers": args.dataloader_persistent_workers,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "in_order": args.dataloader_in_order,
        "worker_init_fn": partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    }
    if isinstance(dataset, MixedStream):
        batches = StreamedBatches(dataset, sizes, stream_shares(dataset, args.mixture), seed, **places)
        loader = DataLoader(batches, batch_size=None, **keywords)
    else:
        sampler = MixtureBatchSampler(_sampled(dataset, sizes), seed, lambda: dataset.epoch, **_mixing(args), **places)
        loader = DataLoader(dataset, batch_sampler=sampler, **keywords)
    # As if there were one process: accelerate puts batches on the device, and leaves them as they are.
    return prepare_data_loader(
        loader, accelerator.device, 1, 0, put_on_device=accelerator.device_placement, dispatch_batches=False,
        non_blocking=accelerator.non_blocking,
    )  # fmt: skip


def check_company(part: MixturePart, joint: int, drop_last: bool) -> None:
    """Raise ValueError for a data set whose passages are compared with nothing; warn of a last batch that is so.

    Args:
        joint: queries whose passages meet.
    """
    if part.scored or part.group_size > 1:
        return
    rows = None if isinstance(part.rows, datasets.IterableDataset) else len(part.rows)
    if joint == 1 or rows == 1:
        raise ValueError(
            f"Data set {part.name!r}: one query a batch with one passage has nothing to be compared with, so that its "
            "loss is 0 and nothing is learned: give it a batch size of 2 or more (and as many rows), or negatives."
        )
    if rows is not None and rows % joint == 1 and not drop_last:
        logger.warning_once(
            f"Data set {part.name!r}: its last batch of {rows} rows is one query with one passage, from which nothing "
            "is learned: set dataloader_drop_last=True, or another batch size."
        )


def _sampled(dataset: MixedRows, sizes: Sequence[int]) -> list[SampledSet]:
    return [
        SampledSet(one.name, len(one.rows), size, one.weight) for one, size in zip(dataset.parts, sizes, strict=True)
    ]


def _mixing(args: Any) -> dict[str, Any]:
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy!r} needs the lengths of rows, which are texts "
            f"here; use random or sequential."
        )
    shuffle = args.train_sampling_strategy == "random"
    drop_last = args.dataloader_drop_last
    return {
        "mixture": args.mixture, "temperature": args.mixture_temperature, "shuffle": shuffle, "drop_last": drop_last,
    }  # fmt: skip
