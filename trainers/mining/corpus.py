"""Passages to mine negatives from, and which of them say the same as a given text."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..biencoder.rows import normalize_row
from ..data.faithful import faithful_rows, placed
from ..data.folders import corpus_files, is_data_file
from ..data.plain_text import read_lines
from ..data.readers import without_surrogates
from ..data.sources import Row, RowError
from ..data.texts import passage_text

# Texts, rows with `text` or `passage` (and `title`), a path or a Hub id.
CorpusSource: TypeAlias = str | Path | list[str] | list[Row] | datasets.Dataset
_Passage = tuple[str, str]  # with its title, and without


def text_key(text: str) -> int:
    """A 64-bit hash of a text, the same for texts that differ in white space alone."""
    digest = hashlib.blake2b(" ".join(text.split()).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class KeyTable:
    """Finds the places at which a key stands, in 16 bytes a key."""

    def __init__(self, keys: Sequence[int]):
        values = np.asarray(keys, dtype=np.int64)
        self._order = np.argsort(values, kind="stable")
        self._sorted = values[self._order]

    def find(self, key: int) -> list[int]:
        """The places of `key`, in their order."""
        left = np.searchsorted(self._sorted, key, side="left")
        right = np.searchsorted(self._sorted, key, side="right")
        return self._order[left:right].tolist()


class Corpus:
    """Passages, each once: of texts that differ in white space alone the first one stays, blank ones go.

    Args:
        passages: (passage, the same without its title). name: what an error calls them.
    """

    def __init__(self, passages: Iterable[_Passage], name: str = "The corpus"):
        self.texts: list[str] = []
        keys: list[int] = []
        bare_keys: list[int] = []
        seen: set[int] = set()
        digest = hashlib.sha256()
        for text, bare in passages:
            key = text_key(text)
            if key in seen or not text.strip():
                continue
            seen.add(key)
            self.texts.append(text)
            keys.append(key)
            bare_keys.append(key if bare == text else text_key(bare))
            digest.update(text.encode(errors="surrogatepass") + b"\0")
        if not self.texts:
            raise ValueError(f"{name} holds no passage that is not blank, and needs one or more: give another.")
        self.digest = digest.hexdigest()
        self._tables = [KeyTable(keys)] if keys == bare_keys else [KeyTable(keys), KeyTable(bare_keys)]

    def __len__(self) -> int:
        return len(self.texts)

    def find(self, text: str) -> int | None:
        """The number of the passage that is `text` to the letter."""
        return next((i for i in self._tables[0].find(text_key(text)) if self.texts[i] == text), None)

    def same_as(self, keys: Collection[int]) -> set[int]:
        """The numbers of all passages whose key, with or without their title, is among `keys`."""
        return {number for key in keys for table in self._tables for number in table.find(key)}


def load_corpus(source: CorpusSource, show_progress: bool = False) -> Corpus:
    """The passages of a data file (rows with `text` or `passage`; a `title` is put before it), of any other file (each
    line one), of a folder of either, of a Hub id, or of a list of texts or rows.

    Raises ValueError for a row without text, naming its number, and for a source without passages.
    """
    passages = tqdm(_passages(source), desc="Corpus", unit="passage", disable=not show_progress)
    return Corpus(passages, f"The corpus {str(source)!r}" if isinstance(source, str | Path) else "The corpus")


def corpus_of_rows(rows: Sequence[Row], show_progress: bool = False) -> Corpus:
    """All positives and negatives of the rows, in their order."""
    numbers = tqdm(range(len(rows)), desc="Corpus", unit="row", disable=not show_progress)
    with placed(rows):
        normalized = (normalize_row(rows[number], number) for number in numbers)
        return Corpus((text, text) for row in normalized for text in row["pos"] + row["neg"])


def _passages(source: CorpusSource) -> Iterator[_Passage]:
    if isinstance(source, list) and all(isinstance(text, str) for text in source):
        yield from ((text, text) for text in map(without_surrogates, source))
    elif isinstance(source, str | Path) and Path(source).is_dir():
        for file in corpus_files(Path(source)):
            yield from _passages(file)
    elif isinstance(source, str | Path) and Path(source).is_file() and not is_data_file(Path(source)):
        yield from ((row["text"], row["text"]) for _, row in read_lines(Path(source)))
    else:
        rows = faithful_rows(cast(Any, source))
        with placed(rows):
            yield from (_passage(row, number) for number, row in enumerate(rows))


def _passage(row: Row, number: int) -> _Passage:
    text = row.get("passage") if row.get("text") is None else row["text"]
    title = row.get("title")
    if text is None and title and not {"text", "passage"}.isdisjoint(row):
        text = ""  # an empty cell, of a passage that is its title
    if not isinstance(text, str):
        raise RowError(number, f"field 'text' of the corpus is {text!r}; it, or 'passage', must be a text.")
    if title is not None and not isinstance(title, str):
        raise RowError(number, f"field 'title' of the corpus is {title!r}; it must be a text or null.")
    return passage_text({"title": title, "text": text}, f"Row {number} (the first is 0)"), text
