"""Choosing keys for queries: pure functions over scores.

Every selection is (indices, scores), both (n_query, k), most relevant first; where there are fewer than k keys the
rest is -1 and -inf. Equal scores are broken in favour of the earlier key.
"""

from collections.abc import Callable, Sequence

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


def random_scores(seeds: Sequence[int], num_keys: int) -> torch.Tensor:
    """(n_query, n_key) in [0, 1), each query from its own seed, so that neither batch nor block changes anything."""
    rows = [torch.rand(num_keys, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


def dense_scores(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Inner products (n_query, n_key) of (n_query, d) and (n_key, d).

    Raises ValueError where the two widths d differ, and where a product is not finite.
    """
    if queries.shape[1] != keys.shape[1]:
        raise ValueError(
            f"the retriever's embeddings are {queries.shape[1]} wide for queries and {keys.shape[1]} for keys; "
            f"inner products need one width. Encode both with the same model."
        )
    scores = queries @ keys.T
    if not scores.isfinite().all():
        raise ValueError(
            "inner products of the embeddings are not finite: they hold NaN (of weights that diverged), or numbers "
            "that are too large for float32; normalise them."
        )
    return scores


def fuse_ranks(scores: Sequence[torch.Tensor], constant: int) -> torch.Tensor:
    """Reciprocal rank fusion (Cormack et al., 2009): (n_query, n_key) sums of 1 / (constant + rank), ranks from 1."""
    ranks = [part.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) + 1 for part in scores]
    return torch.stack([1 / (constant + rank.double()) for rank in ranks]).sum(0).float()


def relevance(
    method: str,
    seeds: Sequence[int],
    num_keys: int,
    bm25: Callable[[], torch.Tensor],
    dense: Callable[[], torch.Tensor],
    fusion_constant: int,
) -> torch.Tensor:
    """(n_query, n_key) scores by a method that does not need the target, one seed a query; n_key 0 for `no`."""
    if method == "no" or not num_keys:
        return torch.empty(len(seeds), 0)
    if method == "recent":
        return recent_scores(len(seeds), num_keys)
    if method == "random":
        return random_scores(seeds, num_keys)
    if method == "bm25":
        return bm25()
    if method == "hybrid":
        return fuse_ranks([dense(), bm25()], fusion_constant)
    return dense()


def arrange(indices: list[int], order_method: str) -> tuple[int, ...]:
    """The order in which the retrieved keys (most relevant first, -1: none) stand before the window."""
    chosen = [index for index in indices if index >= 0]
    return tuple(sorted(chosen)) if order_method == "sequential" else tuple(reversed(chosen))
