"""BM25 as a textbook has it, in plain Python: an inverted list for each token, a loop over the query's tokens."""

import heapq
import math
from collections import Counter, defaultdict


class PlainBm25:
    """Lucene's form: idf ln(1 + (N - df + 0.5) / (df + 0.5)), no factor k1 + 1.

    Args:
        keys: token ids of each key.
        k1, b: saturation and length normalisation.
    """

    name = "straightforward implementation"

    def __init__(self, keys: list[list[int]], k1: float, b: float):
        self.num_keys = len(keys)
        mean = sum(map(len, keys)) / len(keys)
        self.postings: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for number, key in enumerate(keys):
            norm = k1 * (1 - b + b * len(key) / mean)
            for token, count in Counter(key).items():
                self.postings[token].append((number, count / (count + norm)))

    def search(self, queries: list[list[int]], hits: int) -> list[list[int]]:
        """The `hits` best keys of each query, best first."""
        return [self._search_one(query, hits) for query in queries]

    def _search_one(self, query: list[int], hits: int) -> list[int]:
        scores = [0.0] * self.num_keys
        for token in query:
            found = self.postings.get(token, [])
            idf = math.log(1 + (self.num_keys - len(found) + 0.5) / (len(found) + 0.5))
            for number, weight in found:
                scores[number] += idf * weight
        return heapq.nlargest(hits, range(self.num_keys), key=lambda number: scores[number])
