"""Judgements as public data and other libraries have them: scored as by pytrec_eval, or refused."""

import random

import numpy as np
import pytest
import pytrec_eval
import torch

from tests.support.beir import CORPUS, QRELS, QUERIES
from trainers.retrieval.data import RetrievalData, make_retrieval_data
from trainers.retrieval.evaluator import RetrievalEvaluator

MEASURES = {
    "ndcg": "ndcg_cut", "recall": "recall", "map": "map_cut", "precision": "P", "hit_rate": "success"
}  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_judgements_of_what_is_not_there_are_scored_as_by_pytrec_eval(seed):
    choose = random.Random(seed)
    corpus, queries = ({f"{kind}{number}": "x" for number in range(12)} for kind in "dq")
    passages = [*corpus, *(f"gone{number}" for number in range(6))]
    qrels = {
        query: {passage: choose.choice([-2, -1, 0, 1, 2, 3]) for passage in choose.sample(passages, 6)}
        for query in [*list(queries)[:9], "lost"]
    }
    evaluate = RetrievalEvaluator(queries, corpus, qrels, ks=(1, 5), metrics=tuple(MEASURES))
    run = {query: {passage: 1.0 / (1 + rank) for rank, passage in enumerate(choose.sample(list(corpus), 8))}
           for query in evaluate.queries}  # fmt: skip
    names = {f"{name}.1,5" for name in MEASURES.values()}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run).values()
    for name, found in evaluate.score(run).items():
        metric, k = name.split("@")
        expected = np.mean([one[f"{MEASURES[metric]}_{k}"] for one in theirs])
        assert found == pytest.approx(expected, abs=1e-6), name


def test_a_query_whose_relevant_passages_are_all_absent_counts_as_0():
    evaluate = RetrievalEvaluator({"q": "x", "r": "y"}, {"a": "x"}, {"q": {"a": 1}, "r": {"gone": 1}}, ks=(1,))
    assert evaluate.score({"q": {"a": 1.0}, "r": {"a": 1.0}})["ndcg@1"] == 0.5


@pytest.mark.parametrize(
    "form", [set, frozenset, list, tuple, dict.fromkeys], ids=lambda form: getattr(form, "__name__", "form")
)
def test_the_relevant_passages_alone(form):
    qrels = {
        query: dict.fromkeys(judged, 1) if form == dict.fromkeys else form(judged) for query, judged in QRELS.items()
    }
    data = make_retrieval_data(QUERIES, CORPUS, qrels)
    assert data.qrels == {query: dict.fromkeys(judged, 1.0) for query, judged in QRELS.items()}


@pytest.mark.parametrize(
    "kind",
    [int, bool, np.int64, np.float32, np.bool_, torch.tensor],
    ids=lambda form: getattr(form, "__name__", "form"),
)
def test_grades_of_other_types(kind):
    data = make_retrieval_data({"q": "x"}, {"a": "x", "b": "y"}, {"q": {"a": kind(1), "b": kind(0)}})
    assert data.qrels == {"q": {"a": 1.0, "b": 0.0}}


@pytest.mark.parametrize(
    ("text_id", "judged_id"), [(str, int), (int, str), (int, int), (int, np.int64), (str, np.int64)]
)
def test_ids_that_are_numbers(text_id, judged_id):
    data = make_retrieval_data({text_id(1): "x"}, {text_id(5): "y"}, {judged_id(1): {judged_id(5): 1}})
    assert data.qrels == {text_id(1): {text_id(5): 1.0}} and not data.absent_passages
    assert [type(key) for key in data.qrels] == [text_id]


def test_loaded_data_are_taken_as_they_are():
    data = make_retrieval_data(QUERIES, CORPUS, QRELS)
    evaluate = RetrievalEvaluator(data, ks=[1])
    assert isinstance(data, RetrievalData) and (evaluate.qrels, evaluate.left_out) == (QRELS, 2)
    with pytest.raises(ValueError, match="leave corpus and qrels out"):
        RetrievalEvaluator(data, CORPUS)


@pytest.mark.parametrize(
    ("qrels", "error", "message"),
    [
        ({"q0": "d0"}, TypeError, r"qrels, 'q0' is 'd0': give \{passage id: grade\}, or a set"),
        ({"q0": [{"corpus-id": "d0"}]}, TypeError, r"qrels, 'q0' is \[\{'corpus-id': 'd0'\}\]: give"),
        ({"q0": 1}, TypeError, "qrels, 'q0' is 1: give"),
        ([("q0", "d0", 1)], TypeError, "qrels is a list and must be a dict"),
        (None, TypeError, "qrels is a NoneType and must be a dict"),
        ({"q0": {"d0": "high"}}, ValueError, "qrels, 'q0', 'd0': the grade is 'high'"),
        ({"q0": {"d0": None}}, ValueError, "the grade is None"),
        ({"q0": {"d0": float("nan")}}, ValueError, "the grade is nan"),
        ({"q0": {"gone": 1}}, ValueError, "None of the relevant passages of qrels is in corpus, such as 'gone'"),
        ({"lost": {"d0": 1}}, ValueError, "qrels judges 1 queries and none of queries, such as 'lost'"),
        ({}, ValueError, "no query has a relevant passage"),
    ],
)
def test_other_forms_are_refused(qrels, error, message):
    with pytest.raises(error, match=message):
        RetrievalEvaluator(QUERIES, CORPUS, qrels)


def test_texts_of_other_forms_are_refused():
    with pytest.raises(TypeError, match="queries is a list and must be a dict by id"):
        RetrievalEvaluator(["x"], CORPUS, QRELS)
    with pytest.raises(TypeError, match="corpus, 'd0' is None and must be a text"):
        RetrievalEvaluator(QUERIES, {"d0": None}, QRELS)
