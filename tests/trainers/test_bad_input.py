"""Bad input of the public functions of `trainers`: a ValueError or TypeError that names it, before the work starts."""

import math
import re
from typing import Any

import numpy
import peft
import pytest
import torch
from safetensors.torch import save_file

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import (
    RetrievalEvaluator,
    add_adapter,
    explain,
    load_adapter,
    load_embeddings,
    merge_adapter,
    mine_hard_negatives,
    rank_passages,
    retrieval_metrics,
    top_k_passages,
)

ROWS = [{"query": "blue bird", "pos": ["a bluebird"]}, {"query": "fish", "pos": ["a blue fish"]}]
DATA = ({"q": "who"}, {"a": "he", "b": "she"}, {"q": {"b": 1}})


def refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def biencoder() -> BiEncoderModel:
    return BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean").eval()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"rows": [{"query": "a", "pos": ["b"]}, 3]},
            ValueError,
            "Row 1 (the first is 0) is a int and must be a dict",
        ),
        ({"rows": ["ab"]}, ValueError, "Row 0 (the first is 0) is a str and must be a dict"),
        ({"corpus": [1.5]}, ValueError, "Row 0 (the first is 0) is a float and must be a dict"),
        ({"overwrite": "no"}, TypeError, "overwrite='no' must be True or False"),
        ({"show_progress": 1}, TypeError, "show_progress=1 must be True or False"),
        ({"output": 3}, TypeError, "output=3 must be None or a text"),
        ({"seed": "x"}, TypeError, "seed='x' must be a whole number"),
        ({"retriever": "dense", "model": 5}, TypeError, "model is a int and must be a BiEncoderModel"),
        ({"retriever": "dense", "model": torch.nn.Linear(2, 2)}, TypeError, "model is a Linear"),
    ],
)
def test_mine_hard_negatives(settings, error, message):
    given = {"rows": ROWS, "retriever": "bm25", "rank_from": 0, "show_progress": False, **settings}
    refused(lambda: mine_hard_negatives(**given), error, message)


@pytest.mark.parametrize("retriever", ["dense", "both", "evaluator"])
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda n: None, TypeError, "encode returned a NoneType"),
        (lambda n: torch.full((n, 32), math.nan), ValueError, "encode returned NaN or infinity"),
        (lambda n: torch.ones(max(n - 1, 0), 32), ValueError, "encode returned shape"),
        (lambda n: torch.ones(n + 1, 32), ValueError, "encode returned shape"),
        (lambda n: torch.ones(n), ValueError, "encode returned shape"),
        (lambda n: torch.ones(n, 0), ValueError, "encode returned shape"),
        (lambda n: torch.ones(n, 32).long(), TypeError, "torch.int64 is no floating point"),
        (lambda n: torch.ones(n, 32, device="meta"), TypeError, "encode returned a Tensor"),
    ],
)
def test_embeddings_of_a_users_model(monkeypatch, retriever, make, error, message):
    model = biencoder()
    given = {"model": model, "retriever": retriever, "rank_from": 0, "show_progress": False}
    monkeypatch.setattr(model, "encode", lambda texts, *_, **__: make(len(texts)))
    if retriever == "evaluator":
        evaluator = RetrievalEvaluator(*DATA)
        refused(lambda: evaluator(model), error, message)
    else:
        refused(lambda: mine_hard_negatives(ROWS, **given), error, message)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"query_embeddings": [[1.0]]}, TypeError, "query_embeddings must be a tensor (n, d) of numbers, not list"),
        (
            {"passage_embeddings": numpy.ones((3, 2))},
            TypeError,
            "passage_embeddings must be a tensor (n, d) of numbers",
        ),
        ({"passage_embeddings": torch.ones(3, 2) * 1j}, TypeError, "not torch.complex64 on cpu"),
        ({"passage_embeddings": torch.ones(3, 2, device="meta")}, TypeError, "on meta"),
        ({"k": "2"}, ValueError, "k='2' must be an integer"),
        ({"show_progress": "no"}, TypeError, "show_progress='no' must be True or False"),
    ],
)
def test_top_k_passages(arguments, error, message):
    given = {"query_embeddings": torch.ones(1, 2), "passage_embeddings": torch.ones(3, 2), "k": 2, **arguments}
    refused(lambda: top_k_passages(**given), error, message)


def test_rank_passages():
    refused(lambda: rank_passages([[1.0]], 1), TypeError, "scores is a list and must be a tensor")
    refused(lambda: rank_passages(torch.ones(1, 2), -1), ValueError, "k=-1 must be at least 1")
    refused(lambda: rank_passages(torch.ones(1, 2), 1.5), TypeError, "k=1.5 must be a whole number")
    refused(lambda: rank_passages(torch.full((1, 2), math.nan), 1), ValueError, "scores has NaN")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rankings": "ab"}, TypeError, "rankings is a str; it must be a list"),
        ({"rankings": ["ab"]}, TypeError, "rankings[0] is 'ab'; it must hold the passage ids"),
        ({"relevant": [3]}, TypeError, "relevant[0] is 3; it must hold the passage ids"),
        ({"relevant": {"q": {"a"}}}, TypeError, "relevant is a dict; it must be a list"),
        ({"relevant": [{"a": math.nan}]}, ValueError, "The gain of 'a' is nan; it must be a finite number"),
        ({"relevant": [{"a": "1"}]}, ValueError, "The gain of 'a' is '1'"),
        ({"ks": "10"}, TypeError, "ks='10' must be a list of cut-offs"),
        ({"ks": 10}, TypeError, "ks=10 must be a list of cut-offs"),
        ({"ks": [True]}, ValueError, "k is True; the cut-off of a metric must be a whole number"),
        ({"metrics": "mrr"}, TypeError, "metrics='mrr' must be a list of names"),
        ({"metrics": [3]}, ValueError, "There is no metric 3"),
    ],
)
def test_metrics(arguments, error, message):
    given = {"rankings": [["a", "b"]], "relevant": [{"a"}], **arguments}
    refused(lambda: retrieval_metrics(**given), error, message)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": 3}, TypeError, "task=3 must be None or a text"),
        ({"truncate_dims": "8"}, TypeError, "truncate_dims='8' must be None or a list of whole numbers"),
        ({"truncate_dims": [0]}, ValueError, "truncate_dims=0 must be at least 1"),
        ({"query_max_length": 2.5}, TypeError, "query_max_length=2.5 must be a whole number"),
        ({"passage_max_length": 0}, ValueError, "passage_max_length=0 must be at least 1"),
        ({"batch_size": "8"}, TypeError, "batch_size='8' must be a whole number"),
    ],
)
def test_retrieval_evaluator(arguments, error, message):
    refused(lambda: RetrievalEvaluator(*DATA, **arguments), error, message)


def test_calls_of_an_evaluator():
    evaluator = RetrievalEvaluator(*DATA)
    refused(lambda: evaluator(5), TypeError, "model is a int and must be a BiEncoderModel")
    refused(lambda: evaluator(biencoder(), batch_size=0), ValueError, "batch_size=0 must be at least 1")
    refused(lambda: evaluator(biencoder(), show_progress="no"), TypeError, "show_progress='no' must be")


@pytest.mark.parametrize(
    ("content", "ids", "message"),
    [
        (None, '"a"\n', "There is no file"),
        (b"123", '"a"\n', "holds no embeddings that `lookback encode` wrote"),
        ({"other": torch.ones(1, 2)}, '"a"\n', "holds no embeddings"),
        ({"embeddings": torch.ones(1)}, '"a"\n', "holds no embeddings"),
        ({"embeddings": torch.full((1, 2), math.nan)}, '"a"\n', "NaN or infinity"),
        ({"embeddings": torch.ones(1, 2)}, "nothing\n", "must hold an id a line, as JSON"),
        ({"embeddings": torch.ones(1, 2)}, '"a"\n"b"\n', "has 2 ids for 1 embeddings"),
    ],
)
def test_load_embeddings(tmp_path, content, ids, message):
    file = tmp_path / "passages.safetensors"
    (tmp_path / "passages.ids.jsonl").write_text(ids)
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save_file(content, file)
    refused(lambda: load_embeddings(file), ValueError, message)
    refused(lambda: load_embeddings(3), TypeError, "path=3 must be a text")


def test_adapters_are_for_models(tmp_path):
    for call in (
        lambda model: add_adapter(model, peft.LoraConfig()),
        lambda model: load_adapter(model, tmp_path),
        merge_adapter,
    ):
        refused(lambda call=call: call(5), TypeError, "model is a int and must be a model of transformers")
        refused(lambda call=call: call(torch.nn.Linear(2, 2)), TypeError, "model is a Linear and must be a model of")
    refused(
        lambda: load_adapter(biencoder(), tmp_path, is_trainable="no"), TypeError, "is_trainable='no' must be True or"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"texts": "ab"}, TypeError, "texts must be a list of strings, not str"),
        ({"texts": [3]}, TypeError, "texts[0]=3 must be a string"),
        ({"k": True}, TypeError, "k=True must be a whole number"),
        ({"k": 2.5}, TypeError, "k=2.5 must be a whole number"),
        ({"batch_size": 0}, ValueError, "batch_size=0 must be at least 1"),
        ({"max_length": 0}, ValueError, "max_length=0 must be at least 1"),
        ({"stop_words": "the"}, TypeError, "stop_words='the' must be a set of words"),
    ],
)
def test_explain(arguments, error, message):
    model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
    refused(lambda: explain(**{"model": model, "texts": ["a"], **arguments}), error, message)
