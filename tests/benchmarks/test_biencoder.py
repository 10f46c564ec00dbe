"""The benchmark rows of the bi-encoder at their quick sizes, and what both of their sides compute."""

import pytest
import torch

from benchmarks.biencoder_task import (
    LONGEST,
    MEAN_LENGTH,
    Task,
    build_task,
    our_loss,
    parts,
    plain_loss,
    random_biencoder,
    step,
)
from benchmarks.llara_task import same_gradients
from benchmarks.machine import held_bytes
from benchmarks.options import Options
from benchmarks.reference import load_biencoder_reference
from benchmarks.rows import biencoder_memory, load_row
from benchmarks.rows.encode import same_embeddings
from benchmarks.shapes import random_backbone

CPU = torch.device("cpu")
QUICK = Options(CPU, repeats=1, quick=True)


def test_saved_activations_and_peak_memory():
    saved, peak = load_row("biencoder-memory")(QUICK)
    assert [saved.measure, peak.measure] == ["saved activations", "peak memory"]
    assert saved.equal and peak.equal, saved.check.text
    assert saved.ratio.median > 4 and peak.ratio.median > 2 and saved.verdict == peak.verdict == "-"


def test_time_of_a_step():
    pytest.importorskip("sentence_transformers")
    outcomes = load_row("biencoder-step")(QUICK)
    assert [outcome.note for outcome in outcomes] == ["as many texts at a time", "the whole batch at once"]
    for outcome in outcomes:
        assert outcome.row == "biencoder-step" and outcome.equal, outcome.check.text
        assert outcome.ratio.median > 0 and outcome.share > 0


def test_an_encoder_has_rows_of_its_own():
    """MiniLM's shape: embedded and trained, but nothing is generated with it."""
    with pytest.raises(ValueError, match=r"minilm.*needs a decoder"):
        random_backbone("minilm", torch.device("cpu"))
    model = random_biencoder("minilm", torch.device("cpu"))
    assert model.config.pooling == "mean" and model.backbone.config.hidden_size == 384


def test_encode():
    pytest.importorskip("sentence_transformers")
    (outcome,) = load_row("encode")(QUICK)
    assert outcome.row == "encode" and outcome.equal, outcome.check.text
    assert outcome.ratio.median > 0 and outcome.share > 0


def test_embeddings_that_differ_are_not_equal():
    one = torch.ones(2, 3)
    assert same_embeddings(one, one).equal
    assert not same_embeddings(one, one + 1e-4).equal
    assert not same_embeddings(one, one * float("nan")).equal
    assert not same_embeddings(one, one[:1]).equal


def test_a_gradient_that_differs_is_no_ratio(monkeypatch):
    def wrong(task: Task):
        return lambda: our_loss(task)() * 1.001

    monkeypatch.setattr(biencoder_memory, "our_loss", wrong)
    (outcome,) = load_row("biencoder-memory")(QUICK)
    assert outcome.verdict == "FAIL" and "apart" in outcome.check.text


def test_the_batch():
    task = build_task("quick", CPU)
    lengths = torch.cat([tokens["attention_mask"].sum(1) for tokens in (task.query, task.passage)]).float()
    assert len(lengths) == 128 and abs(lengths.mean().item() - MEAN_LENGTH) < 8
    assert lengths.min() >= 1 and lengths.max() <= LONGEST and lengths.std() > 30
    assert (task.query["input_ids"][task.query["attention_mask"] == 1] > 0).all()
    sub_batches = parts(task, task.query)
    assert [len(rows["input_ids"]) for rows in sub_batches] == [8] * 8
    assert all(rows["attention_mask"][:, -1].any() for rows in sub_batches)  # no longer than need be
    assert sum(rows["attention_mask"].sum() for rows in sub_batches) == task.query["attention_mask"].sum()


def test_the_sides_compute_the_whole_batchs_gradient():
    task = build_task("quick", CPU, queries=5, sub_batch_size=2)
    whole = step(task, lambda: task.model(query=task.query, passage=task.passage).loss)
    whole = {name: value.clone() for name, value in whole.items()}
    assert len(whole) == 1 + len(task.weights)
    for loss in (our_loss(task), plain_loss(task)):
        assert same_gradients(step(task, loss), whole).equal


def test_held_bytes_are_those_that_live_as_long_as_the_result():
    def hold() -> torch.Tensor:
        torch.empty(1000, 256)
        return torch.empty(500, 256)

    assert held_bytes(hold, CPU) == 500 * 256 * 4


def test_a_path_that_is_no_checkout(tmp_path):
    with pytest.raises(ValueError, match="has no FlagEmbedding; give the path of a FlagEmbedding checkout"):
        load_biencoder_reference(tmp_path)
