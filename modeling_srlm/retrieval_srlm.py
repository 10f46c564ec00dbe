"""Choosing keys for queries: pure functions over scores, and BM25 on token ids.

Every selection is (indices, scores), both (n_query, k), most relevant first; where there are fewer than k keys the
rest is -1 and -inf. Equal scores are broken in favour of the earlier key.
"""

import torch


def top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best keys of each query from `scores` (n_query, n_key); a score of -inf is never chosen."""
    ranked, indices = scores.sort(dim=-1, descending=True, stable=True)
    ranked, indices = ranked[:, :k], indices[:, :k].masked_fill(ranked[:, :k] == float("-inf"), -1)
    missing = k - ranked.shape[1]
    return (
        torch.nn.functional.pad(indices, (0, missing), value=-1),
        torch.nn.functional.pad(ranked, (0, missing), value=float("-inf")),
    )


def recent_scores(num_queries: int, num_keys: int) -> torch.Tensor:
    """(n_query, n_key): the later a key, the higher."""
    return torch.arange(num_keys, dtype=torch.float32).expand(num_queries, num_keys)


def random_scores(num_queries: int, num_keys: int, seed: int) -> torch.Tensor:
    """(n_query, n_key) in [0, 1): the same for the same seed, so that a batch changes nothing."""
    return torch.rand(num_queries, num_keys, generator=torch.Generator().manual_seed(seed))


def dense_scores(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Inner products (n_query, n_key) of (n_query, d) and (n_key, d)."""
    return queries @ keys.T


def bm25_scores(queries: list[torch.Tensor], keys: list[torch.Tensor], k1: float, b: float) -> torch.Tensor:
    """BM25 in Lucene's form (Robertson and Zaragoza, 2009, with Lucene's idf) on token ids, through bm25s.

    Args:
        queries, keys: token ids of each text, (length,) tensors of any length.

    Returns (n_query, n_key) float32 scores.
    Raises ImportError where bm25s is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise ImportError("retrieval_method 'bm25' needs the package bm25s: pip install bm25s.") from error
    vocabulary, ids = torch.unique(torch.cat(keys), return_inverse=True)
    known = {token: index for index, token in enumerate(vocabulary.tolist())}
    corpus = [part.tolist() for part in ids.split([len(key) for key in keys])]
    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    index.index((corpus, known), create_empty_token=False, show_progress=False)
    rows = [index.get_scores_from_ids([known[t] for t in query.tolist() if t in known]) for query in queries]
    return torch.stack([torch.from_numpy(row) for row in rows])


def arrange(indices: list[int], order_method: str) -> tuple[int, ...]:
    """The order in which the retrieved keys (most relevant first, -1: none) stand before the window."""
    chosen = [index for index in indices if index >= 0]
    return tuple(sorted(chosen)) if order_method == "sequential" else tuple(reversed(chosen))
