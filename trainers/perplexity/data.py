"""What `lookback perplexity` scores: documents with their names, and chat rows."""

from pathlib import Path
from typing import NamedTuple

import datasets
import torch
from transformers import PreTrainedTokenizerBase

from ..data.documents import load_documents
from ..data.sources import load_rows, text_field
from ..embedded.corpus import standard_library
from ..srlm.rows import load_chats
from .measure import tokenize_texts


class TokenizedDocument(NamedTuple):
    """A document to score: `tokens` are (length,) ids."""

    name: str
    tokens: torch.Tensor


def read_documents(
    source: str | None, tokenizer: PreTrainedTokenizerBase, max_documents: int | None, max_length: int | None
) -> list[TokenizedDocument]:
    """The first `max_documents` documents of a text file, a folder of them or rows with `text`.

    Without a source they are the embedded hold-out. Each is cut to its first `max_length` tokens; those of a single
    token are left out. Raises ValueError for a row without text, naming its number.
    """
    if source is None:
        named = [(document.name, document.text) for document in standard_library("holdout")[:max_documents]]
    else:
        rows = _first(load_documents(source), max_documents)
        named = [(row.get("name") or f"row {i}", text_field(row, "text", i)) for i, row in enumerate(rows)]
    documents = []
    for name, text in named:
        documents += [TokenizedDocument(name, ids[:max_length]) for ids in tokenize_texts([text], tokenizer)]
    return documents


def read_chats(source: str, tokenizer: PreTrainedTokenizerBase, max_rows: int | None) -> datasets.Dataset:
    """The first `max_rows` rows of a data file, or of the data files of a folder, as `load_chats` gives them.

    Raises ValueError for a row without `history`, `query` or `answers`, naming its number.
    """
    return load_chats(_first(datasets.concatenate_datasets(load_rows(source)), max_rows), tokenizer)


def _first(rows: datasets.Dataset, count: int | None) -> datasets.Dataset:
    return rows if count is None else rows.select(range(min(count, len(rows))))


def check_source(source: str) -> None:
    """Raises ValueError for a path that is not there."""
    if not Path(source).exists():
        raise ValueError(f"--data={source!r} is neither a file nor a folder: name one that is there.")
