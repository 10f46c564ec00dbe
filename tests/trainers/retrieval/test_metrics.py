import pytest
import torch

from trainers import mean_reciprocal_rank, ndcg, rank_passages, recall, retrieval_metrics
from trainers.retrieval.metrics import rank_by_score, run_metrics


def test_known_values():
    rankings, relevant = [[3, 1, 2], [5, 6, 7], [8, 9, 4]], [{1}, {7}, {0}]
    assert mean_reciprocal_rank(rankings, relevant, 10) == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert mean_reciprocal_rank(rankings, relevant, 2) == pytest.approx((1 / 2) / 3)
    assert recall(rankings, relevant, 2) == pytest.approx(1 / 3)
    # gains 1 at rank 1, 3 at rank 2: (1 + 3 / log2 3) / (3 + 1 / log2 3)
    assert ndcg([["a", "b"]], [{"a": 1.0, "b": 3.0}], 10) == pytest.approx((1 + 3 / 1.5849625) / (3 + 1 / 1.5849625))


def test_perfect_ranking_is_1_everywhere_and_the_worst_is_0():
    relevant = [{0: 2.0, 1: 1.0}] * 3
    assert set(retrieval_metrics([[0, 1, 2]] * 3, relevant, ks=(2, 5)).values()) == {1.0}
    assert set(retrieval_metrics([[2, 3]] * 3, relevant, ks=(2,)).values()) == {0.0}


def test_ndcg_counts_no_more_than_k_in_the_ideal_ranking():
    assert ndcg([[0, 1]], [{0, 1, 2, 3}], 2) == 1.0


def test_ranking_breaks_ties_by_number():
    assert rank_passages(torch.tensor([[1.0, 3.0, 1.0, 2.0]]), 3) == [[1, 3, 0]]


@pytest.mark.parametrize(
    ("rankings", "relevant", "k", "message"),
    [([[1]], [{1}], 0, "k is 0"), ([[1]], [{1}, {2}], 1, "1 rankings for 2"), ([[1]], [{}], 1, "Query 0 has no")],
)
def test_bad_input(rankings, relevant, k, message):
    with pytest.raises(ValueError, match=message):
        recall(rankings, relevant, k)


def test_an_id_may_be_a_number_here_and_a_text_there():
    same = {"mrr@10": 1.0}
    for run in ({"q": {7: 1.0}}, {"q": [7, 8]}):
        assert run_metrics(run, {"q": {"7": 1}}, metrics=["mrr"]) == same
    assert run_metrics({1: {"a": 1.0}}, {"1": ["a"]}, metrics=["mrr"]) == same
    assert rank_by_score({1: 1.0, "a": 1.0, 10: 2.0}) == [10, "a", 1]
