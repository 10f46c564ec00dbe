"""The nearest binary codes by Hamming distance, exactly, by faiss or numpy to the same result."""

from collections.abc import Iterable

import numpy as np
import torch

from .quantization import unsigned

_Near = tuple[np.ndarray, np.ndarray]  # distances and numbers


def nearest(queries: torch.Tensor, blocks: Iterable[torch.Tensor], k: int, by_faiss: bool) -> list[np.ndarray]:
    """The numbers of the k nearest codes of each query, of equally near ones the first.

    Args:
        queries: (Q, bytes) binary codes. blocks: (m, bytes) each of those to search, in order.
        by_faiss: or by numpy, to the same result.
    """
    find = _nearest_by_faiss if by_faiss else _nearest
    asked, start = unsigned(queries), 0
    best = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)) for _ in asked]
    for block in blocks:
        found = find(asked, unsigned(block), min(k, len(block)))
        for row, ((near, numbers), (other, others)) in enumerate(zip(best, found, strict=True)):
            near, numbers = np.concatenate([near, other]), np.concatenate([numbers, others + start])
            order = np.lexsort((numbers, near))[:k]
            best[row] = near[order], numbers[order]
        start += len(block)
    return [numbers for _, numbers in best]


def _nearest(queries: np.ndarray, codes: np.ndarray, k: int) -> list[_Near]:
    """Hamming distances and numbers of the k nearest codes of each query, of equally near ones the first."""
    words, asked = _words(codes), _words(queries)
    found = []
    for query in asked:
        distances = np.bitwise_count(words ^ query).sum(axis=1, dtype=np.int64)
        keys = distances * len(codes) + np.arange(len(codes))
        numbers = np.argpartition(keys, k - 1)[:k]
        found.append((distances[numbers], numbers))
    return found


def _words(codes: np.ndarray) -> np.ndarray:
    """Rows of bytes as rows of 64-bit words, filled up with zeros."""
    return np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))).view(np.uint64)


def _nearest_by_faiss(queries: np.ndarray, codes: np.ndarray, k: int) -> list[_Near]:
    """The same. Which ones of the equally near faiss takes is not said: all as near as its last one are asked for."""
    import faiss

    index = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    index.add(np.ascontiguousarray(codes))
    found = []
    for query in np.ascontiguousarray(queries)[:, None]:
        distances, _ = index.search(query, k)
        _, near, numbers = index.range_search(query, int(distances.max()) + 1)
        order = np.lexsort((numbers, near))[:k]
        found.append((near[order], numbers[order]))
    return found
