"""What `lookback perplexity` scores: documents with their names, and chat rows."""

from typing import NamedTuple

import datasets
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.documents import document_table, document_text
from ..data.joining import joined
from ..data.sources import load_tables
from ..embedded.corpus import standard_library
from ..srlm.rows import load_chats
from .measure import tokenize_texts

logger = logging.get_logger(__name__)


class TokenizedDocument(NamedTuple):
    """A document to score: `tokens` are (length,) ids."""

    name: str
    tokens: torch.Tensor


def read_texts(source: str | None, max_documents: int | None) -> list[tuple[str, str, str]]:
    """(name, where it stands, text) of the first `max_documents` of a text file, a folder of them or rows with `text`.

    Without a source they are the embedded hold-out. Raises ValueError for a row without text, naming its number.
    """
    if source is None:
        named = [(document.name, document.name, document.text) for document in standard_library("holdout")]
        return named[:max_documents]
    rows = enumerate(document_table(source).first(max_documents))
    return [(_name(row.get("name"), number), where, document_text(row, where)) for number, (where, row) in rows]


def _name(name: object, number: int) -> str:
    """What a row is called, as a text: a table's names may be dates or numbers."""
    return f"row {number}" if name is None or name == "" else str(name)


def read_documents(
    source: str | None, tokenizer: PreTrainedTokenizerBase, max_documents: int | None, max_length: int | None
) -> list[TokenizedDocument]:
    """`read_texts`, as tokens: see `tokenized`."""
    return tokenized(read_texts(source, max_documents), tokenizer, max_length)


def tokenized(
    named: list[tuple[str, str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> list[TokenizedDocument]:
    """What `read_texts` gave, each cut to its first `max_length` tokens; those of a single token are left out."""
    documents: list[TokenizedDocument] = []
    too_short: list[str] = []
    for name, where, text in named:
        found = tokenize_texts([text], tokenizer)
        documents += [TokenizedDocument(name, ids[:max_length]) for ids in found]
        too_short += [] if found else [where]
    if too_short:
        _tell_too_short(too_short, len(named))
    return documents


def _tell_too_short(places: list[str], total: int) -> None:
    """A warning that counts the documents in which nothing can be scored; ValueError where all are so."""
    if len(places) == total:
        raise ValueError(
            f"{places[0]}: nothing can be scored, as it has less than 2 tokens, and so it is with all {total} "
            "documents: give longer ones."
        )
    logger.warning(f"{len(places)} of {total} documents have less than 2 tokens and are left out; first {places[0]}.")


def read_chats(source: str, tokenizer: PreTrainedTokenizerBase, max_rows: int | None) -> datasets.Dataset:
    """The first `max_rows` rows of a data file, or of the data files of a folder, as `load_chats` gives them.

    Raises ValueError for a row without `history`, `query` or `answers`, naming its number.
    """
    return load_chats(joined(load_tables(source)).first(max_rows), tokenizer)
