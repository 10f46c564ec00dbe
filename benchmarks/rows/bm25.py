"""BM25 over one document's chunks: index them all, search with each, take the 8 best.

The gate is bm25s's own formula. The original's in-memory BM25 adds up scores across queries and lacks the average
length, so it ranks otherwise; it takes part in the timing only.
"""

from collections.abc import Callable
from pathlib import Path

import bm25s
import torch

from modeling_srlm.bm25_srlm import Bm25Index
from modeling_srlm.retrieval_srlm import top_k

from ..compare import Comparison, compare
from ..options import Options
from ..outcome import Check, Outcome
from ..plain_bm25 import PlainBm25
from ..reference import load_reference
from ..shapes import random_document

K1, B, HITS, CHUNK = 1.5, 0.75, 8, 128
MARKS = {("32k", "cpu"): 8.0, ("32k", "cuda"): 8.0}


def run(options: Options) -> list[Outcome]:
    """One comparison; the device plays no part."""
    size, length = ("2k", 2048) if options.quick else ("32k", 32_768)
    chunks = random_document(length, vocabulary=32_000).view(-1, CHUNK)
    other, search = _other_side(chunks.tolist(), options.reference)
    own_formula = _formula(chunks.tolist())

    def check(found: list[list[int]], theirs: list[list[int]]) -> Check:
        ours = _same_top(found, own_formula, "bm25s's own top 8")
        if not ours.equal or options.reference is not None:
            return ours
        plain = _same_top(theirs, own_formula, "bm25s's own top 8, other side")
        return ours if plain.equal else plain

    case = Comparison("bm25", size, lambda: _ours(chunks), search, other, check, MARKS, {})
    return compare(case, options)


def _ours(chunks: torch.Tensor) -> list[list[int]]:
    texts = list(chunks)
    return top_k(Bm25Index(texts, K1, B).scores(texts), HITS)[0].tolist()


def _other_side(chunks: list[list[int]], checkout: Path | None) -> tuple[str, Callable[[], list[list[int]]]]:
    if checkout is None:
        return PlainBm25.name, lambda: PlainBm25(chunks, K1, B).search(chunks, HITS)
    original = load_reference(checkout, "src.retrieval.modeling_bm25").NaiveBM25Retriever

    def search() -> list[list[int]]:
        retriever = original(k1=K1, b=B)
        retriever.index(chunks)
        return retriever.search(chunks, hits=HITS)[1].tolist()

    return "FlagEmbedding", search


def _formula(chunks: list[list[int]]) -> torch.Tensor:
    """(n, n) scores of each chunk as a query, by bm25s."""
    tokens = sorted({token for chunk in chunks for token in chunk})
    vocabulary = {token: number for number, token in enumerate(tokens)}
    corpus = [[vocabulary[token] for token in chunk] for chunk in chunks]
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index((corpus, vocabulary), create_empty_token=False, show_progress=False)
    return torch.stack([torch.from_numpy(index.get_scores_from_ids(chunk)) for chunk in corpus])


def _same_top(found: list[list[int]], formula: torch.Tensor, what: str) -> Check:
    """Distinct keys with the highest scores there are; which of two keys with the same score comes first is free."""
    scores = formula.gather(1, torch.tensor(found))
    apart = ((scores - formula.topk(HITS).values).abs() / formula.max()).max().item()
    distinct = all(len(set(keys)) == HITS for keys in found)
    return Check(distinct and apart <= 1e-5, f"{what}, scores {apart:.0e} apart")
