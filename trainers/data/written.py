"""Rows made one after the other, written to the cache of `datasets` many at a time, as one by one takes much longer.

`datasets.Dataset.from_generator` looks at each value of each row. Rows of plain types need none of it: pyarrow takes
them as columns.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.packaged_modules.generator.generator import GeneratorConfig

from .readers import Row

_ROWS, _CHARS = 1000, 2**25  # of a part, at most, unless a single row has more characters
# Whatever makes rows lies in one of these, beside each other.
_PACKAGES = ("trainers", "hub_cards", "modeling_biencoder", "modeling_llara", "modeling_srlm")


@cache
def code_digest() -> str:
    """A digest of Lookback's code: `datasets` knows a function by its name, and keeps the rows of a former one."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for file in sorted(file for package in _PACKAGES for file in (root / package).rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@dataclass
class WrittenConfig(GeneratorConfig):
    """By all of it rows in the cache are known: `code` is a digest of what makes them."""

    code: str = ""


class Written(datasets.ArrowBasedBuilder):
    """What `datasets` makes of a generator of rows, by columns."""

    BUILDER_CONFIG_CLASS = WrittenConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.config.features)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=self.config.split, gen_kwargs=self.config.gen_kwargs)]

    def _generate_tables(self, **keywords: Any) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        for number, rows in enumerate(parts(self.config.generator(**keywords))):
            yield (0, number), as_table(rows, self.config.features)


def parts(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """The rows in lists that memory holds."""
    part: list[Row] = []
    chars = 0
    for row in rows:
        part.append(row)
        chars += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(part) == _ROWS or chars >= _CHARS:
            yield part
            part, chars = [], 0
    if part:
        yield part


def as_table(rows: list[Row], features: datasets.Features) -> pa.Table:
    """The rows as Arrow; as `datasets` converts them where they are not what the features say already."""
    schema = features.arrow_schema
    columns = {name: [row.get(name) for row in rows] for name in features}
    try:
        return pa.Table.from_pydict(columns, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.Table.from_pylist([features.encode_example(row) for row in rows], schema=schema)


def generated(
    make: Callable[..., Iterator[Row]], features: datasets.Features, keywords: dict[str, Any], streaming: bool
) -> datasets.Dataset | datasets.IterableDataset:
    """The rows that `make(**keywords)` gives as a data set; its ValueError and OSError come as they are."""
    if streaming:
        return datasets.IterableDataset.from_generator(make, features=features, gen_kwargs=keywords)
    builder = Written(generator=make, gen_kwargs=keywords, features=features, code=code_digest())
    try:
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError | OSError):
            raise error.__cause__ from None
        raise
    found = builder.info.splits or {}
    if builder.config.split not in found or not found[builder.config.split].num_examples:
        return datasets.Dataset.from_dict({name: [] for name in features}, features)
    return builder.as_dataset(split=builder.config.split)
