"""Which keys of a document are tried as candidates: no text is long enough for the model to try every one."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.bm25_srlm import Bm25Index
from modeling_srlm.encoding_srlm import retriever_encode
from modeling_srlm.retrieval_srlm import dense_scores, top_k


class Candidates(NamedTuple):
    """Keys that are tried: BM25's best of each target, some at random, and the best by the model's own retriever.

    Recomputed, a pass over a key serves all targets of a block, which try each other's; with `reuse_states` each tries
    its own.
    """

    bm25: int = 2
    random: int = 6
    dense: int = 0


SOME = Candidates()


def check_dense(candidates: Candidates | None, has_retriever: bool) -> None:
    """ValueError for candidates of a retriever where there is none."""
    if candidates is not None and candidates.dense and not has_retriever:
        raise ValueError(
            f"dense_candidates is {candidates.dense} and the model has no retriever: give one, as in "
            "SelfRetrievalLM.from_components(..., retriever=...).save_pretrained(folder), or leave it out."
        )


def choose_candidates(
    lm: SelfRetrievalLM,
    queries: torch.Tensor,
    keys: list[torch.Tensor],
    counts: Sequence[int],
    candidates: Candidates | None,
    generator: random.Random,
) -> list[list[int]]:
    """Numbers of the keys to try at each target, of which `counts` has the first so many, in order."""
    if candidates is None:
        return [list(range(count)) for count in counts]
    config, rankings = lm.config, []
    if candidates.bm25:
        index = Bm25Index(list(keys), config.bm25_k1, config.bm25_b)
        scores = torch.full((len(queries), len(keys)), float("-inf"))
        for count in set(counts):  # of the keys that a target has, as if there were no others
            rows = [row for row, own in enumerate(counts) if own == count]
            scores[rows, :count] = index.scores([queries[row] for row in rows], count)
        rankings.append((candidates.bm25, scores))
    if candidates.dense:
        encode = retriever_encode(lm.retriever, lm.tokenizer, config.instruction)
        rankings.append((candidates.dense, dense_scores(encode(list(queries), "query"), encode(keys, "key"))))

    def some(rows: Sequence[int], count: int) -> list[int]:
        best = [top_k(scores[list(rows), :count], min(most, count))[0] for most, scores in rankings]
        drawn = generator.sample(range(count), min(candidates.random, count))
        return sorted({key for found in best for key in found.flatten().tolist()} | set(drawn))

    if config.reuse_states:
        return [some([row], count) for row, count in enumerate(counts)]
    return [some(range(len(counts)), counts[0])] * len(counts)
