"""Several data sets to train on: how they are given, and what holds for each."""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import datasets

from hub_cards.travelling.checks import check_fields, nearest, shown
from modeling_biencoder import BiEncoderConfig
from modeling_biencoder.encoding_biencoder import instruction_prompt

from ..data.plain_text import read_yaml
from ..data.readers import refuse_loose_link
from ..data.sources import RowSource, data_files, split_revision

MOST_PASSAGES = 10_000
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class TaskType:
    """What a data set's type sets: whether it has sizes of its own, a query's negatives, and its passages' prompt."""

    own_sizes: bool = True
    in_batch_negatives: bool | None = None
    symmetric: bool = False


RETRIEVAL = TaskType(own_sizes=False)
STS = TaskType(symmetric=True)
CLASSIFICATION = TaskType(in_batch_negatives=False)  # other rows' passages may be of the query's class
CLUSTERING = TaskType(in_batch_negatives=False, symmetric=True)
TASK_TYPES = {
    "retrieval": RETRIEVAL,
    "sts": STS,
    "symmetric": STS,
    "classification": CLASSIFICATION,
    "clustering": CLUSTERING,
    # the names in FlagEmbedding's data
    "normal": RETRIEVAL,
    "symmetric_sts": STS,
    "symmetric_class": CLASSIFICATION,
    "symmetric_clustering": CLUSTERING,
}


@dataclass
class DataSetEntry:
    """One data set of a mixture. In a YAML file: a mapping with these names.

    Args:
        data: a path, a Hub id, a list of rows or a `datasets` object.
        name: for messages; by default the file's or the repo's.
        subset, split, revision: of a Hub repo; the split is "train" by default.
        type: retrieval, sts (or symmetric), classification or clustering; by default what the rows' field `type` says.
            All but retrieval take `symmetric_group_size` and `symmetric_batch_size` of the arguments; sts and
            clustering are `symmetric`; classification and clustering have no in-batch negatives.
        weight: factor of the data set's share of the batches (see `batches.mixture_shares`).
        group_size: passages for each query; 1 for pairs, else the arguments' train_group_size.
        batch_size: queries of a batch on each device.
        in_batch_negatives: False scores a query with its own passages only.
        symmetric: passages stand in the query's prompt.
        swap: queries are the passages, and the reverse; for pairs.
        task: which prompt, for all rows; by default what each row's field `task` says.
        instruction: what the queries ask for, in words: makes the prompt of `task` (by default of a task of the data
            set's name), which the model keeps in its configuration; see `modeling_biencoder.instruction_prompt`.
        max_rows: the first so many rows only.

    Raises ValueError or TypeError for a wrong value.
    """

    data: RowSource
    name: str | None = None
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    type: str | None = None
    weight: float | None = None
    group_size: int | None = None
    batch_size: int | None = None
    in_batch_negatives: bool | None = None
    symmetric: bool | None = None
    swap: bool = False
    task: str | None = None
    instruction: str | None = None
    max_rows: int | None = None

    def __post_init__(self) -> None:
        if self.name is None:
            self.name = Path(self.data).stem if isinstance(self.data, str | Path) else type(self.data).__name__
        if self.instruction is not None and self.task is None:
            self.task = self.name
        where = f"Data set {self.name!r}"
        try:
            check_fields(self, DataSetEntry, but=("data",))  # that is checked where it is read
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from None
        for name in ("group_size", "batch_size", "max_rows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{where}: {name}={value} must be at least 1: give another.")
        check_group_size(f"{where}: group_size", self.group_size)
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"{where}: weight={self.weight} must be more than 0: raise it, or leave it out.")
        if self.type is not None and self.type not in TASK_TYPES:
            raise ValueError(
                f"{where}: type={self.type!r} must be one of {', '.join(TASK_TYPES)}: choose one of them."
            )
        given = [name for name in ("subset", "split", "revision") if getattr(self, name) is not None]
        if given and (not isinstance(self.data, str | Path) or Path(self.data).exists()):
            value = getattr(self, given[0])
            raise ValueError(f"{where}: {given[0]}={value!r} is for a Hub repo, which this is not: leave it out.")


def check_group_size(what: str, size: int | None) -> None:
    """ValueError for more passages a query than a batch holds: negatives are drawn until there are as many."""
    if size is not None and size > MOST_PASSAGES:
        raise ValueError(f"{what}={shown(size)} must be at most {MOST_PASSAGES} passages a query: lower it.")


TrainSource: TypeAlias = RowSource | DataSetEntry | list[Any] | dict[str, Any]


def mixture_entries(source: TrainSource) -> list[DataSetEntry]:
    """The data sets that `source` names.

    Args:
        source: one data set in any form, or several of them: a folder (one a file; the files `NAME-00000-of-00002`
            and so on are one), a list of paths, `datasets` objects, `DataSetEntry`s or mappings of their fields, a
            dictionary {name: any of these}, or a .yaml file with such a list or dictionary. A list of mappings
            without `data` is a list of rows.
    """
    if _is_yaml(source):
        return _read_yaml(Path(source))
    if isinstance(source, dict) and not isinstance(source, datasets.DatasetDict):
        if "data" in source:
            return _files(_entry_of_mapping(source))
        return [entry for name, one in source.items() for entry in _named(name, mixture_entries(one))]
    if isinstance(source, list) and any(_is_data_set(item) for item in source):
        for number, item in enumerate(source):
            if not _is_data_set(item):
                raise ValueError(
                    f"Item {number} of the data sets is {str(item)[:80]!r}: a mapping needs the key 'data'."
                )
        return [entry for item in source for entry in mixture_entries(item)]
    return _files(source if isinstance(source, DataSetEntry) else DataSetEntry(source))


def plain_sources(source: TrainSource | None) -> Iterator[Any]:
    """The data sets that `source` names, as `load_rows` takes them, for what a card says of them.

    Nothing is read but a .yaml file, and a folder stays one; an entry's revision stands behind its Hub id.
    """
    if isinstance(source, DataSetEntry):
        pinned = source.revision is not None
        yield f"{split_revision(str(source.data))[0]}@{source.revision}" if pinned else source.data
    elif _is_yaml(source) or (isinstance(source, dict) and "data" in source):
        yield from (plain for entry in mixture_entries(source) for plain in plain_sources(entry))
    elif isinstance(source, dict):
        yield from (plain for one in source.values() for plain in plain_sources(one))
    elif isinstance(source, list) and any(_is_data_set(item) for item in source):
        yield from (plain for item in source for plain in plain_sources(item))
    else:
        yield source


def settle_prompts(config: BiEncoderConfig, entries: list[DataSetEntry]) -> None:
    """Puts the prompts of the data sets' instructions into a model's configuration.

    Raises ValueError where it has another prompt for the task, or none for a task without instruction.
    """
    for entry in entries:
        task = str(entry.task)
        if entry.instruction is not None:
            prompt = instruction_prompt(entry.instruction)
            if config.prompts.setdefault(task, prompt) != prompt:
                raise ValueError(
                    f"Data set {entry.name!r}: its instruction makes the prompt of task {task!r}, for which the model "
                    f"has another, {config.prompts[task]!r}: give it another task, or leave one of them out."
                )
        elif entry.task is not None and task not in config.prompts:
            raise ValueError(
                f"Data set {entry.name!r}: task={task!r} has no prompt; the model's tasks are "
                f"{sorted(config.prompts)}. Give it one of these, an instruction, or prompts to the model."
            )


def _is_yaml(source: Any) -> TypeGuard[str | Path]:
    return isinstance(source, str | Path) and Path(source).suffix.lower() in (".yaml", ".yml")


def _is_data_set(item: Any) -> bool:
    kinds = str | Path | DataSetEntry | datasets.Dataset | datasets.IterableDataset
    return isinstance(item, kinds) or (isinstance(item, dict) and "data" in item)


def _read_yaml(path: Path) -> list[DataSetEntry]:
    refuse_loose_link(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}: give the path of a list of data sets.")
    content = read_yaml(path)
    if not isinstance(content, list | dict) or not content:
        raise ValueError(f"{path} must hold a list of data sets, or a mapping of names to them.")
    return mixture_entries(content)


def _entry_of_mapping(mapping: dict[str, Any]) -> DataSetEntry:
    names = [field.name for field in dataclasses.fields(DataSetEntry)]
    for name in mapping:
        if name not in names:
            raise ValueError(
                f"A data set's {name!r} is not known; did you mean {nearest(name, names)}? (Rows that have a column "
                "'data' load from a file or a datasets.Dataset, not from a list.)"
            )
    return DataSetEntry(**mapping)


def _named(name: str, entries: list[DataSetEntry]) -> list[DataSetEntry]:
    if len(entries) == 1:
        return [dataclasses.replace(entries[0], name=name)]
    return [dataclasses.replace(entry, name=f"{name}/{entry.name}") for entry in entries]


def _files(entry: DataSetEntry) -> list[DataSetEntry]:
    """An entry for each data set of a folder; any other entry as it is."""
    if not (isinstance(entry.data, str | Path) and Path(entry.data).is_dir()):
        return [entry]
    shards: dict[str, list[Path]] = {}
    for file in data_files(Path(entry.data)):
        shards.setdefault(_SHARD.sub("", file.stem), []).append(file)
    if len(shards) == 1:
        return [entry]
    return [dataclasses.replace(entry, data=tuple(files), name=name) for name, files in shards.items()]
