"""The filters on hand-made scores, the draw, the fusion, and BM25's search."""

import pytest
import torch

from tests.support.mining import PASSAGES, ROWS
from trainers.mining.filters import draw, fuse_ranks, passing
from trainers.retrieval.bm25 import BM25Index, bm25_matrix

SCORES = torch.tensor([1.0, 0.75, 0.5, 0.25, -0.5])


@pytest.mark.parametrize(
    "positives, settings, expected",
    [
        ([0.75], {}, [1, 1, 1, 1, 1]),
        ([0.75], {"max_score": 0.75}, [0, 1, 1, 1, 1]),
        ([0.75], {"min_score": 0.25}, [1, 1, 1, 1, 0]),
        ([0.75], {"margin": 0.0}, [0, 0, 1, 1, 1]),  # below the positive, not as high
        ([0.75], {"margin": 0.25}, [0, 0, 0, 1, 1]),
        ([1.0], {"relative_margin": 0.25}, [0, 0, 1, 1, 1]),
        ([1.0], {"relative_margin": 0.2}, [0, 1, 1, 1, 1]),
        ([1.0, 0.5], {"margin": 0.0}, [0, 0, 0, 1, 1]),  # the lowest positive counts
        ([-0.25], {"relative_margin": 0.5}, [0, 0, 0, 0, 1]),  # -0.375, not -0.125
        ([1.0], {"margin": 0.3, "relative_margin": 0.6}, [0, 0, 0, 1, 1]),
        ([1.0], {"min_score": 0.3, "max_score": 0.9, "margin": 0.3}, [0, 0, 1, 0, 0]),
        ([], {"min_score": 0.3}, [1, 1, 1, 0, 0]),
    ],
)
def test_which_scores_pass(positives, settings, expected):
    assert passing(SCORES, torch.tensor(positives), **settings).int().tolist() == expected


def test_the_draw_depends_on_seed_and_row_alone():
    candidates = list(range(100, 150))
    one = draw(candidates, 5, "random", seed=3, row=8)
    assert one == sorted(set(one)) and len(one) == 5 and set(one) <= set(candidates)
    assert draw(candidates, 5, "random", seed=3, row=8) == one
    assert draw(candidates, 5, "random", seed=3, row=9) != one
    assert draw(candidates, 5, "random", seed=4, row=8) != one
    assert draw(candidates, 5, "top", seed=3, row=8) == [100, 101, 102, 103, 104]
    assert draw([4, 2], 5, "random", seed=3, row=8) == [4, 2]
    assert draw(candidates, 0, "random", seed=3, row=8) == []


def test_every_candidate_is_drawn_as_often():
    counts = torch.zeros(4)
    for row in range(2000):
        counts[draw(range(4), 1, "random", seed=0, row=row)] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.05


def test_fused_ranks():
    assert fuse_ranks([[1, 2, 3], [3, 2, 1]]) == [1, 3, 2]  # 1/61 + 1/63 > 2/62
    assert fuse_ranks([[5], []]) == [5]
    assert fuse_ranks([[9, 4], [8, 3]]) == [8, 9, 3, 4]


@pytest.mark.parametrize("k", [1, 3, 7, 100])
def test_bm25_finds_what_the_matrix_ranks_first(k):
    passages = PASSAGES + PASSAGES[:5]
    queries = [row["query"] for row in ROWS] + ["no word of it", "the library the library"]
    matrix, index = bm25_matrix(queries, passages), BM25Index(passages)
    for query, row in zip(queries, matrix, strict=True):
        scores, ids = index.search(query, k)
        expected = row.argsort(descending=True, stable=True)[: min(k, int((row > 0).sum()))]
        assert ids.tolist() == expected.tolist()
        assert scores.tolist() == row[expected].tolist()


def test_bm25_scores_a_text_as_if_it_were_a_passage():
    index, query = BM25Index(PASSAGES), "the library reads the long documents 3"
    found = [index.score_text(query, passage) for passage in PASSAGES]
    assert found == index.scores(query).tolist()  # to the last bit
    assert found == pytest.approx(index.scores(query).tolist(), abs=1e-5)
    assert max(found) > 0
    assert index.score_text(query, "words of no passage, tralala") == 0.0


def test_a_relative_margin_lies_below_a_negative_score_too():
    stays = passing(torch.tensor([-1.0, -0.7]), torch.tensor([-0.6]), relative_margin=0.5)  # below -0.9
    assert stays.tolist() == [True, False]


def test_passages_without_a_word_are_found_by_none():
    index = BM25Index(["🙂", "?!"])
    assert index.scores("a word").tolist() == [0, 0] and index.search("a word", 2)[1].tolist() == []
    assert index.score_text("a word", "a word") == 0
