"""Training sequences of the embedded backbone: plain text, and [retrieved values | window]."""

from collections.abc import Iterator

import bm25s
import numpy as np

CHUNK_SIZE = 32
# (values, window tokens): both fill a sequence of 1,024 tokens.
SHAPES = ((8, 512), (4, 768))
# Share of the values that are found by the text to be predicted itself, not by the text before it: they teach that
# what was looked back at is of use.
HINDSIGHT_SHARE = 0.5


def plain_sequences(documents: list[np.ndarray], length: int, eos: int, rng: np.random.Generator) -> np.ndarray:
    """Documents in random order, joined by `eos` and cut into (n, length) rows, a random offset dropped."""
    order = rng.permutation(len(documents))
    stream = np.concatenate([part for i in order for part in (documents[i], [eos])]).astype(np.uint16)
    stream = stream[rng.integers(length) :]
    return stream[: len(stream) // length * length].reshape(-1, length)


def retrieval_sequences(tokens: np.ndarray, length: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows [k values in order of position | window] of one document.

    A value is a chunk and its continuation, as in the self-retrieval LM: the best by BM25 of the chunks before the
    window, for one of k chunks drawn from the window's last three quarters. One row so holds k places where looking
    back pays, where a row with k values for a single chunk would hold one.
    """
    chunks = tokens[: len(tokens) // CHUNK_SIZE * CHUNK_SIZE].reshape(-1, CHUNK_SIZE)
    if len(chunks) < 2 * length // CHUNK_SIZE:
        return
    index = bm25s.BM25()
    index.index([list(map(str, chunk)) for chunk in chunks], show_progress=False)
    end = int(rng.integers(length, length + 256)) // CHUNK_SIZE
    while end <= len(chunks):
        values, window = SHAPES[rng.integers(len(SHAPES))]
        start = end - window // CHUNK_SIZE
        if start > values:
            keys = _best_keys(index, chunks, _draw_queries(start, end, values, rng), start - 1)
            retrieved = np.stack([chunks[keys], chunks[keys + 1]], axis=1).reshape(-1)
            yield np.concatenate([retrieved, chunks[start:end].reshape(-1)]).astype(np.uint16)
        end += 512 // CHUNK_SIZE


def _draw_queries(start: int, end: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` chunks of the window start..end-1: the one before a target, or with hindsight the target itself."""
    targets = rng.choice(np.arange(start + (end - start) // 4, end), count, replace=False)
    return targets - (rng.random(count) >= HINDSIGHT_SHARE)


def _best_keys(index: bm25s.BM25, chunks: np.ndarray, queries: np.ndarray, num_keys: int) -> np.ndarray:
    """A different key of 0..num_keys-1 for each query, sorted by position."""
    taken = np.zeros(num_keys, dtype=bool)
    for query in queries:
        scores = index.get_scores(list(map(str, chunks[query])))[:num_keys]
        taken[np.where(taken, -1.0, scores).argmax()] = True
    return np.flatnonzero(taken)
