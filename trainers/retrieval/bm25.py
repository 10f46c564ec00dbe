"""BM25 over texts: the baseline of every table, and a source of hard negatives."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import bm25s
import numpy as np
import torch
from tqdm.auto import tqdm

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
    index = BM25Index(passages)
    return torch.stack([torch.from_numpy(index.scores(query)) for query in queries])


class BM25Index:
    """Passages to search by BM25, one query after the other: memory for one row of scores at a time."""

    def __init__(self, passages: Sequence[str], show_progress: bool = False):
        numbers: dict[str, int] = {}
        ids, lengths = [], np.zeros(len(passages))
        for i, passage in enumerate(tqdm(passages, desc="BM25 words", unit="passage", disable=not show_progress)):
            ids.append([numbers.setdefault(word, len(numbers)) for word in words(passage)])
            lengths[i] = len(ids[-1])
        self._index = bm25s.BM25(method="lucene")
        self._has_words = bool(numbers)  # of none bm25s makes no index
        if self._has_words:
            self._index.index((ids, numbers), show_progress=False)
        self._count = len(ids)
        self._mean_length = max(float(lengths.mean()), 1.0)

    def scores(self, query: str) -> np.ndarray:
        """(passages,) float32 scores."""
        if not self._has_words:
            return np.zeros(self._count, dtype=np.float32)
        # Words that no passage has are left out.
        return self._index.get_scores_from_ids(self._index.get_tokens_ids(words(query)))

    def search(self, query: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and ids of the at most k best passages that share a word with the query, best first.

        Equal scores are in the order of the passage numbers.
        """
        scores = self.scores(query)
        ids = np.flatnonzero(scores > 0)
        if len(ids) > k:
            ids = ids[scores[ids] >= np.partition(scores[ids], -k)[-k]]  # more than k where scores are equal
        ids = ids[np.argsort(-scores[ids], kind="stable")][:k]
        return scores[ids], ids

    def score_text(self, query: str, text: str) -> float:
        """The score that `text` would have as a passage, were the index's word statistics as they are.

        To the last bit, in bm25s' own steps: passages that say the same words score alike, in the index or not.
        """
        config, counts = self._index, Counter(words(text))
        norm = config.k1 * (1 - config.b + config.b * counts.total() / self._mean_length)
        score = np.float32(0)
        for word in words(query) if self._has_words else ():
            if word in config.vocab_dict:
                share = counts[word] / (counts[word] + norm)
                score += np.float32(float(np.float32(self._rarity(config.vocab_dict[word]))) * share)
        return float(score)

    def _rarity(self, word: int) -> float:
        """Lucene's inverse document frequency."""
        starts, passages = self._index.scores["indptr"], self._index.scores["num_docs"]
        frequency = int(starts[word + 1] - starts[word])
        return math.log(1 + (passages - frequency + 0.5) / (frequency + 0.5))
