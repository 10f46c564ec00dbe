"""The rows of each data set of a mixture, and one map-style data set of them all."""

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers.utils import logging

from ..base.streams import order_seed
from ..data.sources import Row, Table, TypedTable, load_tables
from ..data.transforms import StreamedRows, Transform, TransformedRows
from ..jobs.idle import refuse_idle
from .columns import SCORES, check_layouts
from .entries import RETRIEVAL, TASK_TYPES, DataSetEntry, TaskType
from .rows import normalize_rows

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class MixturePart:
    """A data set's rows (of `rows.FEATURES`) and what holds for it; None: as the arguments say."""

    name: str
    rows: Any
    group_size: int
    batch_size: int | None = None
    in_batch_negatives: bool | None = None
    symmetric: bool = False
    weight: float | None = None
    scored: bool = False


def load_part(entry: DataSetEntry, args: Any, streaming: bool = False) -> MixturePart:
    """An entry's rows, checked; `args` are the Trainer's. Raises ValueError as `load_biencoder_rows` does."""
    tables = [table.first(entry.max_rows) for table in _tables(entry, streaming)]
    kind = TASK_TYPES[entry.type] if entry.type is not None else _type_of(tables[0], str(entry.name))
    own = (args.symmetric_group_size, args.symmetric_batch_size) if kind.own_sizes else (None, None)
    group_size = entry.group_size or own[0] or args.train_group_size
    loaded = [normalize_rows(table, group_size, entry.task, entry.swap) for table in tables]
    check_layouts(tables, [layout for _, layout in loaded], group_size)
    part = MixturePart(
        name=str(entry.name),
        rows=_joined([rows for rows, _ in loaded], entry, args),
        group_size=1 if all(layout.pair for _, layout in loaded) else group_size,
        batch_size=entry.batch_size or own[1],
        in_batch_negatives=kind.in_batch_negatives if entry.in_batch_negatives is None else entry.in_batch_negatives,
        symmetric=kind.symmetric if entry.symmetric is None else entry.symmetric,
        weight=entry.weight,
        scored=all(layout.scored for _, layout in loaded),
    )
    in_batch = args.in_batch_negatives if part.in_batch_negatives is None else part.in_batch_negatives
    if part.group_size == 1 and not in_batch and not part.scored:
        raise ValueError(
            f"Data set {part.name!r} has a group size of 1 and in_batch_negatives=False, which leaves no negatives: "
            f"give negatives, or in_batch_negatives=True."
        )
    _check_objectives(part, args, tables)
    return part


def _tables(entry: DataSetEntry, streaming: bool) -> list[Table]:
    split, pinned = entry.split or "train", {"subset": entry.subset, "revision": entry.revision}
    tables = load_tables(entry.data, split, streaming, **pinned, numbers=SCORES)
    return [table.streamed() if streaming and isinstance(table, TypedTable) else table for table in tables]


def _joined(loaded: list[Any], entry: DataSetEntry, args: Any) -> Any:
    rows = _first(datasets.concatenate_datasets(loaded) if len(loaded) > 1 else loaded[0], entry.max_rows)
    # A stream that the user made is in the order that the user wants.
    if isinstance(rows, datasets.Dataset) or isinstance(entry.data, datasets.IterableDataset):
        return rows
    return rows.shuffle(order_seed(args), buffer_size=args.shuffle_buffer) if args.shuffle_buffer else rows


def _first(rows: Any, max_rows: int | None) -> Any:
    if max_rows is None:
        return rows
    return rows.select(range(min(max_rows, len(rows)))) if isinstance(rows, datasets.Dataset) else rows.take(max_rows)


def _type_of(table: Table, name: str) -> TaskType:
    """What the rows' field `type` says; a stream's first row speaks for all."""
    kinds = {kind: TASK_TYPES.get(kind) for kind in table.values("type")}
    if unknown := [kind for kind, known in kinds.items() if known is None]:
        logger.warning(
            f"Data set {name!r}: type {unknown[0]!r} of its rows is none of {', '.join(TASK_TYPES)}; it trains as "
            f"retrieval. Give the data set a type to say otherwise."
        )
        return RETRIEVAL
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"Data set {name!r} mixes rows of the types {', '.join(sorted(kinds))}, which do not share batches: part "
            f"it by type, or give the data set one type."
        )
    return next((kind for kind in kinds.values() if kind is not None), RETRIEVAL)


def _check_objectives(part: MixturePart, args: Any, tables: Sequence[Table]) -> None:
    """ValueError for a data set, or the first of its rows, that no loss with a weight above 0 is there for.

    An error now, before training, rather than at the batch that has none. Of a stream the rows are not looked at.
    """
    objectives = args.objectives()
    in_batch = args.in_batch_negatives if part.in_batch_negatives is None else part.in_batch_negatives
    in_batch = in_batch and not part.scored
    taught = part.scored or (args.use_teacher_scores and part.group_size > 1)
    try:
        objectives.present(part.group_size, in_batch, taught)
    except ValueError as error:
        raise ValueError(f"Data set {part.name!r}: {error}") from error
    try:
        objectives.present(part.group_size, in_batch, False)
    except ValueError as error:
        row = _first_without_scores(part.rows)
        if row is not None:
            raise ValueError(
                f"Data set {part.name!r}: {_place(tables, row)} has no teacher scores, and no loss without them has a "
                f"weight above 0: score it, leave it out, or raise contrastive_weight."
            ) from error


def _refuse_idle(parts: Sequence[MixturePart], args: Any) -> None:
    """ValueError for the settings of losses that no row of any data set has the scores for; a weight may be 0."""
    scored = any(part.scored for part in parts)
    if not scored and args.pair_ranking_weight:
        refuse_idle(args, ["pair_ranking_weight"], "where no data set is scored pairs", mark="")
    if not scored and not any(part.group_size > 1 and _has_scores(part.rows) for part in parts):
        weights = [name for name in ("distillation_weight", "margin_mse_weight") if getattr(args, name)]
        names = [*weights, "distillation", "student_temperature", "teacher_temperature"]
        refuse_idle(args, names, "where no data set has teacher scores", mark="")


def _has_scores(rows: datasets.Dataset) -> bool:
    column = rows.select_columns("pos_scores").with_format("arrow")[:].column(0)
    return bool(column.null_count < len(column))


def _place(tables: Sequence[Table], row: int) -> str:
    """Where the row of that number among all of them stands."""
    return next(itertools.islice(itertools.chain.from_iterable(tables), row, None))[0]


def _first_without_scores(rows: Any) -> int | None:
    if not isinstance(rows, datasets.Dataset):
        return None
    missing = rows.select_columns("pos_scores").with_format("arrow")[:].column(0).is_null()
    found = missing.index(True).as_py()
    return None if found < 0 else found


class MixedRows(TransformedRows):
    """Map-style data sets one behind the other, each with a transform of its own; `MixtureBatchSampler` mixes them."""

    def __init__(self, parts: Sequence[MixturePart], transforms: Sequence[Transform]):
        for part in parts:
            if not len(part.rows):
                raise ValueError(f"Data set {part.name!r} is empty; it needs one row or more.")
        rows = datasets.concatenate_datasets([part.rows for part in parts])
        ends = list(itertools.accumulate(len(part.rows) for part in parts))
        super().__init__(rows, _ByPart(ends, transforms))
        self.parts = parts


@dataclass(frozen=True)
class _ByPart:
    """The transform of the data set that a row number falls in."""

    ends: Sequence[int]
    transforms: Sequence[Transform]

    def __call__(self, row: Row, number: int, epoch: int) -> Row:
        return self.transforms[bisect.bisect_right(self.ends, number)](row, number, epoch)


class MixedStream(torch.utils.data.IterableDataset):
    """Streamed data sets, each with a transform of its own; `StreamedBatches` mixes them."""

    def __init__(self, parts: Sequence[MixturePart], transforms: Sequence[Transform]):
        self.parts = parts
        self.streams = [StreamedRows(part.rows, make) for part, make in zip(parts, transforms, strict=True)]

    def __iter__(self) -> Iterator[Row]:
        return itertools.chain.from_iterable(self.streams)

    def set_epoch(self, epoch: int) -> None:
        for stream in self.streams:
            stream.set_epoch(epoch)


def mix(
    entries: Sequence[DataSetEntry], args: Any, transform: Callable[[MixturePart], Transform]
) -> MixedRows | MixedStream:
    """The data sets as one; all are streamed if one is, or if `args.streaming` says so."""
    if not entries:
        raise ValueError("There are no data sets to train on; name one or more.")
    streaming = args.streaming or any(isinstance(entry.data, datasets.IterableDataset) for entry in entries)
    if streaming and args.max_steps <= 0:
        raise ValueError("Streamed data has no length: training on it needs max_steps.")
    parts = [load_part(entry, args, streaming) for entry in entries]
    for part in parts:
        size = "streamed" if streaming else f"{len(part.rows)} rows"
        logger.info(f"Data set {part.name!r}: {size}, group size {part.group_size}{', scored pairs' * part.scored}.")
    if not streaming:
        _refuse_idle(parts, args)
    transforms = [transform(part) for part in parts]
    return (MixedStream if streaming else MixedRows)(parts, transforms)
