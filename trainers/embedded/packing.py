"""Training sequences of the embedded backbone: plain text, and [retrieved values | window]."""

from collections.abc import Iterator

import bm25s
import numpy as np

CHUNK_SIZE = 32
# (values, window tokens): both fill a sequence of 1,024 tokens.
SHAPES = ((8, 512), (4, 768))
# Share of the windows whose query is the text to be predicted: they teach that what was looked back at is of use.
HINDSIGHT_SHARE = 0.25


def plain_sequences(documents: list[np.ndarray], length: int, eos: int, rng: np.random.Generator) -> np.ndarray:
    """Documents in random order, joined by `eos` and cut into (n, length) rows, a random offset dropped."""
    order = rng.permutation(len(documents))
    stream = np.concatenate([part for i in order for part in (documents[i], [eos])]).astype(np.uint16)
    stream = stream[rng.integers(length) :]
    return stream[: len(stream) // length * length].reshape(-1, length)


def retrieval_sequences(tokens: np.ndarray, length: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows [k values in order of position | window] of one document, values found by BM25 among the earlier chunks.

    A value is a chunk and its continuation, as in the self-retrieval LM; the query is one chunk of the last third of
    the window, so that what follows it can be copied from what was retrieved.
    """
    chunks = tokens[: len(tokens) // CHUNK_SIZE * CHUNK_SIZE].reshape(-1, CHUNK_SIZE)
    if len(chunks) < 2 * length // CHUNK_SIZE:
        return
    index = bm25s.BM25()
    index.index([list(map(str, chunk)) for chunk in chunks], show_progress=False)
    end = rng.integers(length, length + 256) // CHUNK_SIZE
    while end <= len(chunks):
        values, window = SHAPES[rng.integers(len(SHAPES))]
        start = end - window // CHUNK_SIZE
        query = end - 1 - rng.integers(1, window // CHUNK_SIZE // 3)
        hindsight = rng.random() < HINDSIGHT_SHARE
        scores = index.get_scores(list(map(str, chunks[query + hindsight])))[: start - 1]
        if len(scores) >= values:
            best = np.sort(np.argpartition(-scores, values - 1)[:values])
            retrieved = np.stack([chunks[best], chunks[best + 1]], axis=1).reshape(-1)
            yield np.concatenate([retrieved, chunks[start:end].reshape(-1)]).astype(np.uint16)
        end += 512 // CHUNK_SIZE
