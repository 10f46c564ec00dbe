"""BM25 on token ids over the chunks of a document that grows, or over the turns of a conversation."""

import torch


class Bm25Index:
    """BM25 in Lucene's form (Robertson and Zaragoza, 2009, with Lucene's idf) of texts given as token ids.

    A window that moves sees a longer and longer prefix of the keys. Term frequencies are counted once; the statistics
    that change with the prefix, idf and the average length, are taken when a query comes.

    Args:
        keys: token ids of each key, (length,) tensors of any length.
        k1, b: saturation of the term frequency and normalisation by length.
    """

    def __init__(self, keys: list[torch.Tensor], k1: float, b: float):
        self.k1, self.b, self.count = k1, b, len(keys)
        lengths = torch.tensor([len(key) for key in keys])
        self.lengths, self.total_lengths = lengths.double(), lengths.cumsum(0)
        tokens = torch.cat(keys).cpu()
        number = torch.repeat_interleave(torch.arange(self.count), lengths)
        # Postings sorted by token, then by key: those of a prefix of the keys come first within a token.
        postings, frequencies = torch.unique(tokens * self.count + number, return_counts=True)
        self.posting_keys, self.frequencies = postings % self.count, frequencies.double()
        self.tokens, sizes = torch.unique_consecutive(postings // self.count, return_counts=True)
        self.ends = sizes.cumsum(0)
        self.starts = self.ends - sizes

    def scores(self, queries: list[torch.Tensor], num_keys: int | None = None) -> torch.Tensor:
        """(n_query, num_keys) float32 scores of the first `num_keys` keys, as if there were no others.

        A token that a query holds twice counts twice.
        """
        num_keys = self.count if num_keys is None else num_keys
        if not len(self.tokens):  # every key is empty
            return torch.zeros(len(queries), num_keys)
        wanted, place = torch.unique(torch.cat(queries).cpu(), return_inverse=True)
        row = torch.repeat_interleave(torch.arange(len(queries)), torch.tensor([len(query) for query in queries]))
        counts = torch.zeros(len(queries), len(wanted), dtype=torch.float64)
        counts.index_put_((row, place), torch.ones(len(row), dtype=torch.float64), accumulate=True)
        # In float64 equal keys keep equal scores whatever stands beside them, so that ties are broken by position.
        return (counts @ self._weights(wanted, num_keys)).float()

    def _weights(self, tokens: torch.Tensor, num_keys: int) -> torch.Tensor:
        """(n_token, num_keys) score of one occurrence of each token in a query."""
        term, posting = self._postings(tokens, num_keys)
        key, frequency = self.posting_keys[posting], self.frequencies[posting]
        containing = torch.bincount(term, minlength=len(tokens)).double()
        idf = torch.log1p((num_keys - containing + 0.5) / (containing + 0.5))
        average = self.total_lengths[num_keys - 1] / num_keys
        saturation = frequency + self.k1 * (1 - self.b + self.b * self.lengths[key] / average)
        weights = torch.zeros(len(tokens), num_keys, dtype=torch.float64)
        return weights.index_put_((term, key), idf[term] * frequency / saturation)

    def _postings(self, tokens: torch.Tensor, num_keys: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(number in `tokens`, index of the posting) of each posting of the tokens among the first keys."""
        place = torch.searchsorted(self.tokens, tokens).clamp(max=len(self.tokens) - 1)
        sizes = torch.where(self.tokens[place] == tokens, self.ends[place] - self.starts[place], 0)
        term = torch.repeat_interleave(torch.arange(len(tokens)), sizes)
        within = torch.arange(len(term)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
        posting = self.starts[place][term] + within
        kept = self.posting_keys[posting] < num_keys
        return term[kept], posting[kept]
