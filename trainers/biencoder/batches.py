"""Batches from one data set at a time, each process's share of them, and what becomes of the rows that remain.

A joint batch is what all processes take in one step, `batch_size` rows each. At a data set's end there may be fewer:
- as many as processes or more: they are shared as evenly as can be, so that some processes get one row less;
- fewer than processes: rows of the joint batch before join them, so that each process gets one;
- with batches of one row that would leave processes without any: these rows are left out, and a warning says so.
"""

import bisect
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformers.utils import logging

from ..base.streams import share

logger = logging.get_logger(__name__)
Item = TypeVar("Item")


def joint_batches(
    items: Iterable[Item], batch_size: int, num_processes: int, drop_last: bool = False
) -> Iterator[list[Item]]:
    """The joint batches of one pass over `items`, in their order; `drop_last` leaves out a last one that is not full.

    >>> [len(batch) for batch in joint_batches(range(9), batch_size=2, num_processes=2)]
    [4, 3, 2]
    """
    iterator = iter(items)
    previous: list[Item] = []
    while batch := list(itertools.islice(iterator, batch_size * num_processes)):
        missing = max(num_processes - len(batch), 0)
        too_few = missing > 0 and len(previous) - missing < num_processes
        if too_few or (drop_last and len(batch) < batch_size * num_processes):
            break
        if missing:
            previous, batch = previous[:-missing], previous[-missing:] + batch
        if previous:
            yield previous
        previous = batch
    if previous:
        yield previous


def count_batches(num_items: int, batch_size: int, num_processes: int, drop_last: bool = False) -> tuple[int, int]:
    """(number of `joint_batches`, items that none of them holds)."""
    full, rest = divmod(num_items, batch_size * num_processes)
    rest_counts = not drop_last and (rest >= num_processes or (rest > 0 and full > 0 and batch_size > 1))
    return (full + 1, 0) if rest_counts else (full, rest)


@dataclass(frozen=True)
class SampledSet:
    """A data set as the sampler sees it: rows, rows of a batch on one process, and its share's factor, if any."""

    name: str
    num_rows: int
    batch_size: int
    weight: float | None = None


def mixture_shares(
    counts: Sequence[float], weights: Sequence[float | None], mixture: str, temperature: float
) -> list[float] | None:
    """The probability of each data set, ~ weight * count ** (1 / temperature); None: an epoch takes all rows once.

    `counts` are in batches, so that temperature 1 is proportional, infinity equal.
    """
    if mixture == "proportional" and all(weight is None for weight in weights):
        return None
    exponent = {"proportional": 1.0, "temperature": 1 / temperature, "equal": 0.0}[mixture]
    parts = [
        (1.0 if weight is None else weight) * count**exponent for count, weight in zip(counts, weights, strict=True)
    ]
    return [part / sum(parts) for part in parts]


class MixtureBatchSampler(torch.utils.data.Sampler[list[int]]):
    """This process's row numbers of each batch; the rows of data set k follow those of data set k - 1.

    All processes draw the same joint batches, by (seed, epoch) alone, and take their own share of each: accelerate
    must not share the batches out again. An epoch has as many batches as it takes to see every row once; where
    `mixture_shares` asks for other proportions, a data set is left early or seen again in another order.

    Args:
        sets: the data sets.
        mixture: `proportional`, `temperature` or `equal`; see `mixture_shares`.
        epoch: tells the epoch, which the data set knows.
        shuffle: False takes one data set after the other, in the order of its rows.

    Raises ValueError for a data set that has fewer rows than there are processes (or than a batch has, `drop_last`).
    """

    def __init__(
        self,
        sets: Sequence[SampledSet],
        seed: int,
        epoch: Callable[[], int],
        mixture: str = "proportional",
        temperature: float = 1.0,
        num_processes: int = 1,
        process_index: int = 0,
        drop_last: bool = False,
        shuffle: bool = True,
    ):
        self.sets, self.seed, self.epoch, self.drop_last, self.shuffle = sets, seed, epoch, drop_last, shuffle
        self.num_processes, self.process_index = num_processes, process_index
        counted = [count_batches(one.num_rows, one.batch_size, num_processes, drop_last) for one in sets]
        self.counts = [count for count, _ in counted]
        self.shares = mixture_shares(self.counts, [one.weight for one in sets], mixture, temperature)
        for one, (count, left_out) in zip(sets, counted, strict=True):
            self._check(one, count, left_out)

    def _check(self, one: SampledSet, count: int, left_out: int) -> None:
        if not count:
            rule = "and dataloader_drop_last=True" if self.drop_last else "each of which needs a row"
            raise ValueError(
                f"Data set {one.name!r} gives no batch: {one.num_rows} rows for batches of {one.batch_size} on "
                f"{self.num_processes} processes, {rule}. Leave it out or lower its batch_size."
            )
        if left_out and self.process_index == 0:
            logger.warning(
                f"Data set {one.name!r}: {left_out} of {one.num_rows} rows, others in each epoch, are left out at its "
                f"end, where they do not fill a batch on {self.num_processes} processes."
            )

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.epoch()
        starts = list(itertools.accumulate((one.num_rows for one in self.sets), initial=0))
        batches = [self._joint_batches(number, epoch) for number in range(len(self.sets))]
        for number in self._order(epoch):
            rows = share(next(batches[number]), self.num_processes, self.process_index)
            yield [starts[number] + row for row in rows]

    def _order(self, epoch: int) -> list[int]:
        """Which data set each batch of the epoch is from."""
        generator = random.Random(f"{self.seed}-{epoch}-mixture")
        if self.shares is None:
            order = [number for number, count in enumerate(self.counts) for _ in range(count)]
        else:  # each data set gets its share rounded down or up: one of equidistant points for each batch
            ends = list(itertools.accumulate(share * len(self) for share in self.shares))
            start = generator.random()
            last = len(ends) - 1
            order = [min(bisect.bisect_right(ends, start + i), last) for i in range(len(self))]
        if self.shuffle:
            generator.shuffle(order)
        return order

    def _joint_batches(self, number: int, epoch: int) -> Iterator[list[int]]:
        """Those of one data set, pass after pass without end."""
        one = self.sets[number]
        for repeat in itertools.count():
            rows = self._permutation(number, epoch, repeat) if self.shuffle else range(one.num_rows)
            yield from joint_batches(rows, one.batch_size, self.num_processes, self.drop_last)

    def _permutation(self, number: int, epoch: int, repeat: int) -> list[int]:
        # One data set alone is seen in the order of accelerate's sampler.
        alone = len(self.sets) == 1 and repeat == 0
        seed = self.seed + epoch if alone else random.Random(f"{self.seed}-{epoch}-{number}-{repeat}").getrandbits(63)
        return torch.randperm(self.sets[number].num_rows, generator=torch.Generator().manual_seed(seed)).tolist()
