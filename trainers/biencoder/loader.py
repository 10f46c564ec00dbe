"""The data loader for training on one or several data sets, each process's share of every batch."""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers.utils import logging

from ..base.streams import StreamedBatches, loader_keywords, order_seed, ready
from ..data.sources import Row
from .batches import MixtureBatchSampler, SampledSet, mixture_shares
from .mixture import MixedRows, MixedStream, MixturePart

logger = logging.get_logger(__name__)


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
    seed = order_seed(args)
    places: dict[str, Any] = {"num_processes": processes, "process_index": index}
    keywords = loader_keywords(args, collate)
    if isinstance(dataset, MixedStream):
        names = [f"Data set {part.name!r}" for part in dataset.parts]
        batches = StreamedBatches(dataset.streams, sizes, stream_shares(dataset, args.mixture), seed, names, **places)
        loader = DataLoader(batches, batch_size=None, **keywords)
    else:
        sampler = MixtureBatchSampler(_sampled(dataset, sizes), seed, lambda: dataset.epoch, **_mixing(args), **places)
        loader = DataLoader(dataset, batch_sampler=sampler, **keywords)
    return ready(loader, accelerator)


def check_company(part: MixturePart, joint: int, drop_last: bool, trains: bool = True) -> None:
    """Raise ValueError for a data set whose passages are compared with nothing; warn of a last batch that is so.

    Args:
        joint: queries whose passages meet.
        trains: False for rows that are evaluated.
    """
    if part.scored or part.group_size > 1:
        return
    rows = None if isinstance(part.rows, datasets.IterableDataset) else len(part.rows)
    done = "learned" if trains else "measured"
    if joint == 1 or rows == 1:
        raise ValueError(
            f"Data set {part.name!r}: one query a batch with one passage has nothing to be compared with, so that its "
            f"loss is 0 and nothing is {done}: give it a batch size of 2 or more (and as many rows), or negatives."
        )
    if rows is not None and rows % joint == 1 and not drop_last:
        logger.warning_once(
            f"Data set {part.name!r}: its last batch of {rows} rows is one query with one passage, from which nothing "
            f"is {done}: set dataloader_drop_last=True, or another batch size."
        )


def _sampled(dataset: MixedRows, sizes: Sequence[int]) -> list[SampledSet]:
    return [
        SampledSet(one.name, len(one.rows), size, one.weight) for one, size in zip(dataset.parts, sizes, strict=True)
    ]


def _mixing(args: Any) -> dict[str, Any]:
    shuffle = args.train_sampling_strategy == "random"
    drop_last = args.dataloader_drop_last
    return {
        "mixture": args.mixture, "temperature": args.mixture_temperature, "shuffle": shuffle, "drop_last": drop_last,
    }  # fmt: skip
