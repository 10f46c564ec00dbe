"""Retrieval evaluation: what the evaluator computes, and what a Trainer does with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from torch import distributed
from transformers import EarlyStoppingCallback, TrainerCallback

from modeling_biencoder import BiEncoderModel
from tests.support import ROOT
from tests.support.beir import CORPUS, QRELS, QUERIES, write_beir
from tests.support.files import write_rows
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, arguments, assert_same_weights, logged, weights
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments, RetrievalEvaluator, retrieval_metrics
from trainers.base.cards import evaluation_facts
from trainers.commands import finetune
from trainers.retrieval import evaluator as module
from trainers.retrieval.beir import load_retrieval_data

JUDGED = [QRELS[query] for query in QRELS]


def make_model(**config) -> BiEncoderModel:
    return BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), temperature=0.1, **config)


def make_trainer(folder, evaluation=None, callbacks=None, **settings) -> BiEncoderTrainer:
    args = arguments(BiEncoderTrainingArguments, folder, **{"train_group_size": 3, "eval_ks": [2, 5], **settings})
    return BiEncoderTrainer(make_model(), args, PAIRS, evaluation, callbacks=callbacks)


def evaluator(**settings) -> RetrievalEvaluator:
    return RetrievalEvaluator(QUERIES, CORPUS, QRELS, **{"ks": (2, 5), **settings})


class Scripted(RetrievalEvaluator):
    """nDCG@2 as told, one value a call."""

    def __init__(self, *values: float):
        super().__init__(QUERIES, CORPUS, QRELS, ks=(2,))
        self.values = list(values)

    def __call__(self, *args, **kwargs):
        return {"ndcg@2": self.values.pop(0)}


class Recorder(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.seen.append(dict(metrics))


def by_hand(model, ks=(2, 5), dim=None, **encoding) -> dict[str, float]:
    queries = model.encode([QUERIES[query] for query in QRELS], role="query", truncate_dim=dim, **encoding)
    passages = model.encode(list(CORPUS.values()), role="passage", truncate_dim=dim, **encoding)
    order = model.similarity(queries, passages).argsort(dim=1, descending=True, stable=True)
    names = list(CORPUS)
    return retrieval_metrics([[names[i] for i in row] for row in order.tolist()], JUDGED, ks)


@pytest.mark.parametrize("config", [{}, {"normalize": False, "similarity": "dot"}, {"embedding_dims": [8, 32]}])
def test_metrics_are_those_of_the_models_own_similarity(monkeypatch, config):
    model = make_model(**config).train()
    measured = evaluator(truncate_dims=[8])(model, show_progress=False)
    expected = by_hand(model)
    assert 0 < expected["ndcg@5"] < 1
    assert measured == pytest.approx(
        {**expected, **{f"dim8_{name}": value for name, value in by_hand(model, dim=8).items()}}
    )
    assert list(measured) == evaluator(truncate_dims=[8]).names() and model.training
    monkeypatch.setattr(module, "PASSAGES_AT_ONCE", 3)  # does not divide the 8 passages
    assert evaluator(truncate_dims=[8])(model, batch_size=2) == measured


def test_prompts_and_lengths_are_as_asked():
    prompts = {"default": {"query": "ask: "}, "facts": {"query": "which fact answers: ", "passage": "fact: "}}
    model = make_model(prompts=prompts)
    ranked = evaluator(task="facts").search(model)[None]
    queries = model.encode([QUERIES["q0"]], role="query", task="facts")
    passages = model.encode(list(CORPUS.values()), role="passage", task="facts")
    scores = dict(zip(CORPUS, model.similarity(queries, passages)[0].tolist(), strict=True))
    assert ranked["q0"] == pytest.approx({key: scores[key] for key in ranked["q0"]}, abs=1e-6)
    assert list(ranked["q0"]) == sorted(scores, key=lambda key: -scores[key])[:5]
    short = evaluator(query_max_length=7, passage_max_length=5).search(model)[None]
    assert model.config.max_length == 512
    model.config.max_length = 7
    queries = model.encode([QUERIES["q0"]], role="query")
    model.config.max_length = 5
    scores = model.similarity(queries, model.encode(list(CORPUS.values()), role="passage"))[0].tolist()
    scores = dict(zip(CORPUS, scores, strict=True))
    assert short["q0"] == pytest.approx({key: scores[key] for key in short["q0"]}, abs=1e-6)
    with pytest.raises(ValueError, match="task='fact' has no prompt"):
        evaluator(task="fact")(model)


def test_a_passage_that_is_the_query_is_no_result_unless_it_is_judged():
    corpus = {"a": "the copper lantern", "b": "the hammer", "c": "an island"}
    queries = {"a": corpus["a"], "b": "where is it"}  # the passage b is another text than the query b
    run = RetrievalEvaluator(queries, corpus, {"a": {"b": 1}, "b": {"c": 1}}, ks=(3,)).search(make_model())[None]
    assert set(run["a"]) == {"b", "c"} and set(run["b"]) == {"a", "b", "c"}
    judged = RetrievalEvaluator(queries, corpus, {"a": {"a": 1}, "b": {"c": 1}}, ks=(3,)).search(make_model())[None]
    assert next(iter(judged["a"])) == "a"


def test_a_passage_with_a_title_is_the_query_that_is_its_text_as_in_arguana(tmp_path):
    texts = {"a": "the copper  lantern\n", "b": "the copper hammer", "c": "a copper island"}
    rows = [{"_id": key, "title": "On copper", "text": text} for key, text in texts.items()]
    write_rows(tmp_path / "corpus.jsonl", rows)
    write_rows(
        tmp_path / "queries.jsonl", [{"_id": "a", "text": "the copper lantern"}, {"_id": "b", "text": "copper"}]
    )
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\na\tb\t1\nb\ta\t1\n")
    (data,) = load_retrieval_data(tmp_path).values()
    evaluate = RetrievalEvaluator(data, ks=(1, 3))
    run = evaluate.search(make_model())[None]
    assert set(run["a"]) == {"b", "c"} and set(run["b"]) == {"a", "b", "c"}  # "copper" is not all of the passage b
    assert evaluate.bm25()["ndcg@1"] == 1.0  # b for a, and a, the first of three that share a word, for b
    in_python = {row["_id"]: {"title": row["title"], "text": row["text"]} for row in rows}
    assert RetrievalEvaluator(data.queries, in_python, data.qrels, ks=(3,)).search(make_model())[None] == run


def test_bm25_and_counts():
    one = RetrievalEvaluator(QUERIES, {**CORPUS, "t": {"title": "A", "text": "b"}}, QRELS, ks=(1,))
    assert one.left_out == 2 and one.corpus["t"] == "A b"
    assert one.bm25()["ndcg@1"] == 1.0  # each query stands in its passage
    with pytest.raises(ValueError, match="None of the relevant passages of qrels is in corpus, such as 'x'"):
        RetrievalEvaluator(QUERIES, CORPUS, {"q0": {"x": 1}})
    with pytest.raises(ValueError, match="corpus is empty"):
        RetrievalEvaluator(QUERIES, {}, QRELS)
    with pytest.raises(ValueError, match="no metric 'mmr'"):
        evaluator(metrics=["mmr"])


def test_an_evaluator_alone_keeps_the_best_checkpoint(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(
        tmp_path, Scripted(0.1, 0.9, 0.5, 0.4), [recorder], eval_strategy="steps", eval_steps=1, save_strategy="steps",
        save_steps=1, metric_for_best_model="ndcg@2", load_best_model_at_end=True, save_total_limit=1,
    )  # fmt: skip
    trainer.train()
    assert logged(trainer, "eval_ndcg@2") == [0.1, 0.9, 0.5, 0.4] == [one["eval_ndcg@2"] for one in recorder.seen]
    assert trainer.state.best_global_step == 2 and trainer.state.best_metric == 0.9
    kept = BiEncoderModel.from_pretrained(tmp_path / "checkpoint-2")
    assert_same_weights(weights(trainer.model), weights(kept), 0.0)
    assert evaluation_facts(trainer.args, trainer.state) == {"ndcg@2": 0.9}


def test_early_stopping_sees_the_metric_beside_the_loss(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(
        tmp_path, {"rows": PAIRS[:3], "nano": Scripted(0.5, 0.6, 0.4, 0.3)}, [EarlyStoppingCallback(2), recorder],
        max_steps=8, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        metric_for_best_model="nano_ndcg@2", load_best_model_at_end=True,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2
    assert len(recorder.seen) == 4 and all({"eval_rows_loss", "eval_nano_ndcg@2"} <= set(one) for one in recorder.seen)
    entries = [entry for entry in trainer.state.log_history if "eval_nano_ndcg@2" in entry]
    assert len(entries) == 4 and all("eval_rows_contrastive_loss" in entry for entry in entries)


def test_folders_rows_and_evaluators_by_name_with_their_mean(tmp_path):
    write_beir(tmp_path / "beir" / "one")
    write_beir(tmp_path / "beir" / "two", corpus={key: text[::-1] for key, text in CORPUS.items()})
    trainer = make_trainer(tmp_path / "run", {"own": evaluator(), "beir": tmp_path / "beir", "rows": PAIRS[:2]})
    metrics = trainer.evaluate()
    names = ("own", "beir_one", "beir_two")
    values = [metrics[f"eval_{name}_ndcg@5"] for name in names]
    assert values[0] == values[1] != values[2]
    assert metrics["eval_mean_ndcg@5"] == pytest.approx(sum(values) / 3) and "eval_rows_loss" in metrics
    assert trainer.evaluate("own", metric_key_prefix="test")["test_ndcg@5"] == values[0]
    assert trainer.evaluate(tmp_path / "beir" / "two")["eval_ndcg@5"] == values[2]
    assert "eval_loss" in trainer.evaluate(PAIRS[:2]) and "eval_rows_loss" not in trainer.evaluate("rows")


@pytest.mark.slow
def test_evaluating_does_not_change_the_training(tmp_path):
    plain = make_trainer(tmp_path / "plain", max_steps=2)
    plain.train()
    evaluated = make_trainer(
        tmp_path / "evaluated", evaluator(), max_steps=2, eval_strategy="steps", eval_steps=1, eval_on_start=True
    )
    evaluated.train()
    assert_same_weights(weights(evaluated.model), weights(plain.model), 0.0)
    assert len(logged(evaluated, "eval_ndcg@5")) == 3
    assert logged(evaluated, "eval_ndcg@5")[-1] == evaluator()(evaluated.model)["ndcg@5"]


def test_finetune_from_a_file_with_a_folder_to_evaluate_on(tmp_path):
    for part in (tiny_backbone(), tiny_tokenizer()):
        part.save_pretrained(tmp_path / "backbone")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    write_beir(tmp_path / "nano")
    finetune.main([
        "--model", str(tmp_path / "backbone"), "--train_data", str(tmp_path / "pairs.jsonl"), "--output_dir",
        str(tmp_path / "run"), "--eval_retrieval", str(tmp_path / "nano"), "--eval_ks", "2", "5", "--max_steps", "2",
        "--eval_strategy", "steps", "--eval_steps", "1", "--metric_for_best_model", "ndcg@5", "--save_steps", "1",
        "--load_best_model_at_end", "--use_cpu", "--report_to", "none", "--disable_tqdm", "true",
        "--train_group_size", "2", "--eval_truncate_dims", "8",
    ])  # fmt: skip
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    kept = BiEncoderModel.from_pretrained(tmp_path / "run")
    assert results["eval_ndcg@5"] == pytest.approx(evaluator()(kept)["ndcg@5"])
    card = ModelCard.load(tmp_path / "run" / "README.md")
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures["ndcg@5"] == pytest.approx(results["eval_ndcg@5"]) and "dim8_mrr@2" in figures
    assert "retrieval_runtime" not in figures and str(tmp_path / "nano") not in card.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_ks": [0]}, "k is 0"),
        ({"eval_retrieval_revision": "main"}, "without eval_retrieval: give that too"),
        ({"eval_retrieval": "nano", "eval_truncate_dims": [33]}, "truncate_dim=33 is wider"),
        ({"passage_max_length": 4096}, "passage_max_length=4096 is longer than the backbone's 2048 positions"),
        ({"eval_retrieval": "nano", "eval_task": "facts"}, "task='facts' has no prompt"),
        ({"eval_retrieval": "nano", "metric_for_best_model": "ndgc@5"}, "not measured; did you mean 'ndcg@5'"),
        ({"metric_for_best_model": "ndcg@5"}, "needs retrieval data"),
        ({"eval_retrieval": "nowhere"}, "There is no folder"),
    ],
)
def test_wrong_arguments_are_errors_before_the_training(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    write_beir(tmp_path / "nano")
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path / "run", **settings)


@pytest.mark.parametrize(
    ("data", "names"), [({"nano": evaluator(), "held": PAIRS}, "held_loss, nano_mrr@2"), (evaluator(), "mrr@2")]
)
def test_a_loss_that_is_not_measured_cannot_choose_the_best_model(tmp_path, data, names):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(ValueError, match=f"'loss' .* is not measured; name one of {names}"):
        make_trainer(tmp_path, data, load_best_model_at_end=True, **settings)


def test_texts_longer_than_the_backbones_positions_are_an_error():
    with pytest.raises(ValueError, match="query_max_length=4096 is longer than the backbone's 2048 positions"):
        evaluator(query_max_length=4096)(make_model())


def test_retrieval_data_is_given_once(tmp_path):
    with pytest.raises(ValueError, match="put both into eval_dataset"):
        make_trainer(tmp_path, evaluator(), eval_retrieval=str(write_beir(tmp_path / "nano")))
    with pytest.raises(ValueError, match="called 'mean'"):
        make_trainer(tmp_path, {"mean": evaluator(), "other": evaluator()}).evaluate()


def measure(model: BiEncoderModel) -> list:
    few = RetrievalEvaluator({"q": "an island"}, {"a": "an island", "b": "no"}, {"q": {"a": 1}}, ks=(1,))
    return [evaluator(truncate_dims=[8]).search(model), evaluator()(model), few.search(model)]


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [*command, "tests.trainers.retrieval.test_evaluator", str(tmp_path)], cwd=ROOT, env=environment, check=True
    )
    alone = measure(make_model())
    for rank in range(3):
        together = torch.load(tmp_path / f"{rank}.pt")
        assert together[1] == alone[1]
        for ours, theirs in ((alone[0], together[0]), (alone[2], together[2])):
            for dim, run in ours.items():
                assert [list(found) for found in run.values()] == [list(found) for found in theirs[dim].values()]
                for query, found in run.items():
                    assert theirs[dim][query] == pytest.approx(found, abs=1e-6)


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    torch.save(measure(make_model()), Path(sys.argv[1]) / f"{distributed.get_rank()}.pt")
    distributed.destroy_process_group()
