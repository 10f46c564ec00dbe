"""The `evaluate` module: equal to pytrec_eval, complete in its folder, and refusing what it cannot score."""

import random
import shutil

import evaluate
import pytest
import pytrec_eval

from trainers import load_metric, metrics_path, push_metric
from trainers.retrieval.metrics import METRICS, rank_by_score, retrieval_metrics, run_metrics

KS = (1, 3, 10)
# Of the metrics without a cut-off in trec_eval, the first k of the run are scored.
TREC = {"ndcg": "ndcg_cut_{k}", "recall": "recall_{k}", "map": "map_cut_{k}", "precision": "P_{k}",
        "hit_rate": "success_{k}"}  # fmt: skip


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return load_metric(cache_dir=str(tmp_path_factory.mktemp("cache")))


def random_task(seed: int, tied: bool) -> tuple[dict, dict]:
    """Runs and graded judgements with unjudged passages, grades of 0 and below, and queries without results."""
    generator = random.Random(seed)
    passages = [f"d{number}" for number in range(30)] + ["D", "é", "漢"]
    run, qrels = {}, {}
    for number in range(12):
        judged = generator.sample(passages, generator.randint(1, 12))
        qrels[f"q{number}"] = {passage: generator.choice((-1, 0, 1, 1, 2, 3)) for passage in judged}
        found = generator.sample(passages, generator.randint(1, 25))
        scores = [generator.choice((0.25, 0.5, 1.0)) if tied else generator.uniform(-5, 5) for _ in found]
        if number % 5 != 4:
            run[f"q{number}"] = dict(zip(found, scores, strict=True))
    run["not judged"] = {"d1": 1.0}
    return run, qrels


def trec_eval(run: dict, qrels: dict) -> dict[str, float]:
    """pytrec_eval's values as means over all queries of the judgements (trec_eval -c)."""
    cuts = ",".join(map(str, KS))
    measures = {f"{name}.{cuts}" for name in ("ndcg_cut", "recall", "map_cut", "P", "success")}
    found = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    means = {
        f"{name}@{k}": sum(one[measure.format(k=k)] for one in found.values()) / len(qrels)
        for name, measure in TREC.items()
        for k in KS
    }
    reciprocal = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"})
    for k in KS:
        # The k best by trec_eval's own order: its ranks are read off runs with one relevant passage each.
        first = {query: order_of_trec_eval(scores)[:k] for query, scores in run.items()}
        cut = {query: {passage: run[query][passage] for passage in kept} for query, kept in first.items()}
        values = reciprocal.evaluate(cut).values()
        means[f"mrr@{k}"] = sum(one["recip_rank"] for one in values) / len(qrels)
    return means


def order_of_trec_eval(scores: dict[str, float]) -> list[str]:
    rank = {
        passage: pytrec_eval.RelevanceEvaluator({"q": {passage: 1}}, {"recip_rank"}).evaluate({"q": scores})
        for passage in scores
    }
    return sorted(scores, key=lambda passage: -rank[passage]["q"]["recip_rank"])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_pytrec_eval(metric, seed, tied):
    run, qrels = random_task(seed, tied)
    expected = trec_eval(run, qrels)
    computed = metric.compute(predictions=run, references=qrels, ks=list(KS), metrics=list(METRICS))
    assert computed == pytest.approx(expected, abs=1e-9) and set(computed) == set(expected)
    assert run_metrics(run, qrels, KS, list(METRICS)) == pytest.approx(expected, abs=1e-9)
    assert 0 < computed["map@10"] < 1


def test_ties_are_in_trec_evals_order():
    scores = {"a": 1.0, "B": 1.0, "é": 1.0, "10": 2.0, "9": 2.0, "z": 1.0 + 1e-12, "漢": -0.0, "0": 0.0}
    assert rank_by_score(scores) == order_of_trec_eval(scores)


def test_ranked_lists_in_batches_give_the_same(metric):
    run, qrels = random_task(7, tied=False)
    whole = metric.compute(predictions=run, references=qrels)
    ranked = {query: rank_by_score(scores) for query, scores in run.items()}
    assert metric.compute(predictions=ranked, references=qrels) == whole
    queries = list(qrels)
    metric.add_batch(predictions=[ranked.get(query, []) for query in queries[:5]],
                     references=[qrels[query] for query in queries[:5]])  # fmt: skip
    metric.add_batch(predictions=ranked, references={query: qrels[query] for query in queries[5:-1]})
    metric.add(prediction=run.get(queries[-1], []), reference=qrels[queries[-1]])
    assert metric.compute() == pytest.approx(whole)
    assert metric.compute(predictions=[["a", "b"]], references=[["b"]], ks=2) == {
        "mrr@2": 0.5, "ndcg@2": pytest.approx(0.6309, abs=1e-4), "recall@2": 1.0, "map@2": 0.5,
    }  # fmt: skip


def test_the_folder_is_complete_and_says_what_it_does(tmp_path):
    folder = tmp_path / "elsewhere" / "retrieval_metrics"
    shutil.copytree(metrics_path(), folder)
    metric = evaluate.load(str(folder), cache_dir=str(tmp_path))
    assert metric.name == "retrieval_metrics" and "MRR" in metric.description and "ks" in metric.inputs_description
    assert metric.compute(predictions={"q": ["a"]}, references={"q": {"a": 1}})["mrr@10"] == 1.0
    source = type(metric).__module__
    assert "trainers" not in source
    card = (folder / "README.md").read_text()
    assert all(f"`{name}@k`" in card for name in METRICS)


def test_push_sends_the_folder_to_a_space(hub):
    url = push_metric("user/retrieval_metrics", private=True, token="hf_write")
    repo = hub.repos["user/retrieval_metrics"]
    assert url.endswith(f"spaces/user/retrieval_metrics/commit/{repo.branches['main']}")
    assert repo.kind == "space" and repo.private
    assert {"README.md", "index.html", "retrieval_metrics.py", "ranking_metrics.py"} <= set(repo.files())
    assert not [name for name in repo.files() if "pycache" in name]
    with pytest.raises(ValueError, match="'user/retrieval_metrics'"):
        push_metric("user/other")


@pytest.mark.parametrize(
    ("predictions", "references", "options", "message"),
    [
        ({"q": ["a"]}, {"r": ["a"]}, {}, "No query id of the predictions"),
        ({"q": ["a"]}, [["a"]], {}, "references are not"),
        ([["a"]], {"q": ["a"]}, {}, "predictions are not"),
        ([["a"]], [["a"]], {"metrics": ["mmr"]}, "no metric 'mmr'; the metrics are mrr"),
        ([["a"]], [["a"]], {"ks": [0]}, "k is 0"),
        ([["a"]], [["a"]], {"ks": []}, "ks is empty"),
        ([{"a": float("nan")}], [["a"]], {}, "NaN"),
    ],
)
def test_bad_input_leaves_nothing_behind(metric, predictions, references, options, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=predictions, references=references, **options)
    assert metric.compute(predictions=[["a"]], references=[["a"]])["mrr@10"] == 1.0


def test_rankings_that_cannot_be_scored():
    with pytest.raises(ValueError, match="query 1 holds a passage twice"):
        retrieval_metrics([["a"], ["b", "b"]], [{"a"}, {"b"}])
    with pytest.raises(ValueError, match="No query of qrels has a relevant passage"):
        run_metrics({"q": ["a"]}, {"q": {"a": 0}})
    with pytest.raises(ValueError, match="None of the run's 1 queries"):
        run_metrics({"q": ["a"]}, {"r": {"a": 1}})
