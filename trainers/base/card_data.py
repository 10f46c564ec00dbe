"""What was trained on, in words for a card: Hub ids with their revisions, files by their names alone."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from hub_cards.cards.origin import hub_id

from ..biencoder.entries import DataSetEntry, mixture_entries
from ..data.sources import split_revision

# How a data set from the Hub names its files in its checksums.
_HUB_FILE = re.compile(r"hf://datasets/(?P<repo>[^@]+)@(?P<commit>[0-9a-f]+)/")


def data_facts(source: Any) -> dict[str, Any]:
    """`datasets` and `data` of a card, for a data set or several of them in any form that the Trainers take."""
    found = dict.fromkeys(_describe(source))
    if not found:
        return {}
    repos = dict.fromkeys(repo for repo, _ in found if repo)
    return {"data": [text for _, text in found], **({"datasets": list(repos)} if repos else {})}


def _describe(source: Any) -> Iterator[tuple[str | None, str]]:
    """(repo id, in words) of each data set."""
    if isinstance(source, DataSetEntry):
        for repo, text in _describe(source.data):
            yield repo, f"{repo}, revision {source.revision}" if repo and source.revision else text
    elif isinstance(source, str | Path) and Path(source).suffix in (".yaml", ".yml"):
        yield from _describe(mixture_entries(source))
    elif isinstance(source, str | Path):
        name, revision = split_revision(str(source))
        repo = None if Path(source).exists() else hub_id(name)
        yield repo, (f"{repo}, revision {revision}" if revision else repo) if repo else Path(source).name
    elif isinstance(source, datasets.Dataset | datasets.IterableDataset):
        yield from _hub_repos(source)
    elif isinstance(source, dict) and "data" in source:
        yield from _describe(mixture_entries(source))
    elif isinstance(source, dict):
        yield from (pair for part in source.values() for pair in _describe(part))
    elif isinstance(source, list | tuple) and any(not isinstance(part, dict) or "data" in part for part in source):
        yield from (pair for part in source for pair in _describe(part))


def _hub_repos(dataset: datasets.Dataset | datasets.IterableDataset) -> Iterator[tuple[str, str]]:
    for name in dataset.info.download_checksums or {}:
        if found := _HUB_FILE.match(str(name)):
            yield found["repo"], f"{found['repo']}, revision {found['commit']}"
