"""BM25 over texts: the baseline of every table, and a source of hard negatives."""

import re
from collections.abc import Sequence

import bm25s
import torch

# Letters and digits apart, so that snake_case and call(arguments) fall into words.
_WORD = re.compile(r"[^\W\d_]+|\d+")


def words(text: str) -> list[str]:
    """Lower-cased words and numbers of a text.

    >>> words("Return the_file(size=10)")
    ['return', 'the', 'file', 'size', '10']
    """
    return [word.lower() for word in _WORD.findall(text)]


def bm25_matrix(queries: Sequence[str], passages: Sequence[str]) -> torch.Tensor:
    """(queries, passages) float32 BM25 scores in Lucene's form, k1 = 1.5 and b = 0.75."""
    index = bm25s.BM25(method="lucene")
    index.index([words(passage) for passage in passages], show_progress=False)
    ids = [index.get_tokens_ids(words(query)) for query in queries]  # words that no passage has are left out
    return torch.stack([torch.from_numpy(index.get_scores_from_ids(row)) for row in ids])
