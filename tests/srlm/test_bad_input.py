"""Bad input of SelfRetrievalLM's public methods: a ValueError or TypeError that names it, before any compute."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch

from modeling_srlm import SelfRetrievalLM
from tests.support.families import build as build_family
from tests.support.srlm import SETTINGS, ByteCounter
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer

IDS = random_ids(2, 100)
LABELS = torch.where(torch.arange(100) < 84, -100, IDS)
ONES = torch.ones(2, 100).long()
CHAT = {"query": ["ask", "say"], "history": [["one", "two"], ["three"]], "answer": ["yes", "no"]}
USER = {"role": "user", "content": "where is it"}
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


def build(retriever: Any = None, **settings: Any) -> SelfRetrievalLM:
    model = SelfRetrievalLM.from_components(
        tiny_backbone(), tiny_tokenizer(), retriever or ByteCounter(), **{**SETTINGS, **settings}
    )
    model.tokenizer.chat_template = TEMPLATE
    return model


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> SelfRetrievalLM:
    """A model whose language model must not be reached."""
    built = build(retrieval_method="bm25")
    monkeypatch.setattr(built.language_model, "forward", lambda *args, **kwargs: pytest.fail("computed on bad input"))
    return built


def refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_ids": IDS.bool()}, TypeError, "input_ids has dtype torch.bool"),
        ({"labels": LABELS.bool()}, TypeError, "labels has dtype torch.bool"),
        ({"attention_mask": ONES.float()}, TypeError, "attention_mask has dtype torch.float32"),
        ({"attention_mask": ONES * math.nan}, TypeError, "attention_mask has dtype torch.float32"),
        ({"attention_mask": -ONES}, ValueError, "attention_mask holds -1, and must be 1 at tokens and 0 at padding"),
        ({"attention_mask": 2 * ONES}, ValueError, "attention_mask holds 2"),
        ({"output_logits": "no"}, TypeError, "output_logits='no' must be None or True or False"),
        ({"show_progress": 1}, TypeError, "show_progress=1 must be"),
        ({"return_dict": "no"}, TypeError, "return_dict='no' must be"),
        ({"past_key_values": ()}, TypeError, "past_key_values=() must be None or of type RetrievalState"),
        ({"query": ["a", "b"]}, ValueError, "query and input_ids are given"),
        ({**CHAT}, ValueError, "query, history, answer and input_ids are given"),
        ({"history_mask": ONES}, ValueError, "history_mask and input_ids are given"),
        ({"input_ids": None, "query": ["a"], "answer": ["b"]}, ValueError, "query, answer and no history are given"),
    ],
)
def test_forward(model, arguments, error, message):
    refused(lambda: model(**{"input_ids": IDS, "labels": LABELS, **arguments}), error, message)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([[1, 1], [1, 0]], TypeError, "history_mask is a list and must be a tensor"),
        (torch.full((2, 2), math.nan), ValueError, "history_mask holds nan"),
        (torch.full((2, 2), 0.5), ValueError, "history_mask holds 0.5"),
        (torch.full((2, 2), -1), ValueError, "history_mask holds -1"),
    ],
)
def test_history_mask(model, mask, error, message):
    refused(lambda: model(**CHAT, history_mask=mask), error, message)


def test_a_dialogue_as_a_tuple():
    output = build(retrieval_method="bm25")(**CHAT, return_dict=False)
    assert isinstance(output, tuple)
    assert output[0].ndim == 0


@pytest.mark.parametrize(
    ("prompts", "continuations", "error", "message"),
    [
        ("ab", ["c", "d"], TypeError, "prompts is a str and must be a list of texts"),
        (["a", "b"], "cd", TypeError, "continuations is a str and must be a list of texts"),
        (["a"], ["c", "d"], ValueError, "there are 1 prompts and 2 continuations"),
        (["a", None], ["c", "d"], TypeError, "prompts[1] is a NoneType and must be a text"),
        (["a"], [3], TypeError, "continuations[0] is a int and must be a text"),
        (["a"], [""], ValueError, "continuations[0] is empty"),
        (3, ["a"], TypeError, "prompts is a int"),
        (["", "a b"], ["c", "d"], ValueError, "text 0, 'c' behind '', is one token, which nothing predicts"),
    ],
)
def test_score_continuations(model, prompts, continuations, error, message):
    refused(lambda: model.score_continuations(prompts, continuations), error, message)


def test_no_continuations_have_no_likelihoods(model):
    assert model.score_continuations([], []).shape == (0,)


@pytest.mark.parametrize(
    ("candidates", "error", "message"),
    [
        ([[0], [0]], TypeError, "candidates must be a tensor of torch.int64, chunk numbers, not list"),
        (torch.zeros(2, 1), TypeError, "chunk numbers, not torch.float32"),
        (torch.full((2, 1), math.nan), TypeError, "chunk numbers, not torch.float32"),
        (torch.zeros(2, 1).bool(), TypeError, "chunk numbers, not torch.bool"),
        (torch.zeros(2).long(), ValueError, "candidates has shape (2,); it must be (2, c)"),
        (torch.zeros(1, 3).long(), ValueError, "candidates has shape (1, 3); it must be (2, c)"),
        (torch.zeros(2, 0).long(), ValueError, "candidates has shape (2, 0)"),
        (torch.zeros(2, 9, 1).long(), ValueError, "candidates has keys for 9 target chunks, and the labels make"),
        (torch.zeros(1, 1, 1).long(), ValueError, "candidates has shape (1, 1, 1); it must be (2, c)"),
        (torch.full((2, 1), -2), ValueError, "candidates holds -2"),
        (torch.zeros(2, 1, device="meta").long(), ValueError, "candidates is on meta"),
    ],
)
def test_score_candidates(model, candidates, error, message):
    refused(lambda: model.score_candidates(IDS, labels=LABELS, candidates=candidates), error, message)


@pytest.mark.parametrize(
    ("dataloader", "error", "message"),
    [
        (3, TypeError, "dataloader is a int; it must give batches"),
        ("ab", TypeError, "dataloader is a str"),
        ({"input_ids": IDS}, TypeError, "dataloader is a dict"),
        (IDS, TypeError, "dataloader is a Tensor"),
        ([], ValueError, "the dataloader gave no batch"),
        (["ab"], TypeError, "batch 0 of the dataloader is a str; it must be a dict"),
        ([(IDS, LABELS)], TypeError, "batch 0 of the dataloader is a tuple"),
        ([{"input_ids": IDS}], ValueError, "batch 0 has ['input_ids'] and no labels"),
        ([{"input_ids": IDS, "labels": LABELS.tolist()}], TypeError, "labels of batch 0 is list"),
        ([{"input_ids": IDS[0], "labels": LABELS[0]}], TypeError, "labels of batch 0 is (100,)"),
        ([{"answer": ["a"]}], ValueError, "answer and no query and no history are given"),
    ],
)
def test_compute_perplexity(model, dataloader, error, message):
    model.train()
    refused(lambda: model.compute_perplexity(dataloader, show_progress=False), error, message)
    assert model.training  # as it was, whatever was wrong


def test_arguments_of_compute_perplexity(model):
    refused(lambda: model.compute_perplexity([], average="rows"), ValueError, "average='rows' is not known")
    refused(lambda: model.compute_perplexity([], show_progress=1), TypeError, "show_progress=1 must be True or False")


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": IDS}, ValueError, "generate has inputs and input_ids, two names of the prompts"),
        ({"input_ids": None, "inputs_embeds": torch.ones(2, 4, 32)}, ValueError, "generate got inputs_embeds=Tensor"),
        ({"input_ids": torch.ones(2, 4, 32)}, TypeError, "input_ids has dtype torch.float32"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens=0 must be from 1"),
        ({"max_new_tokens": -1}, ValueError, "max_new_tokens=-1 must be from 1"),
        ({"max_new_tokens": 2.5}, TypeError, "max_new_tokens=2.5 must be None or a whole number"),
        ({"max_new_tokens": "2"}, TypeError, "max_new_tokens='2' must be"),
        ({"max_new_tokens": True}, TypeError, "max_new_tokens=True must be"),
        ({"max_length": math.nan}, TypeError, "max_length=nan must be"),
        ({"num_beams": 0}, ValueError, "num_beams=0 must be from 1"),
        ({"num_return_sequences": -1}, ValueError, "num_return_sequences=-1 must be from 1"),
        ({"min_new_tokens": -1}, ValueError, "min_new_tokens=-1 must be from 0"),
        ({"prompt_lookup_num_tokens": -1}, ValueError, "prompt_lookup_num_tokens=-1 must be from 0"),
        ({"do_sample": "no"}, TypeError, "do_sample='no' must be None or True or False"),
        ({"use_cache": 0}, TypeError, "use_cache=0 must be"),
        ({"generation_config": {"max_new_tokens": 2}}, TypeError, "must be None or of type GenerationConfig"),
        ({"output_attentions": True}, ValueError, "generate got output_attentions=True"),
        ({"position_ids": IDS}, ValueError, "generate got position_ids=Tensor"),
        ({"attention_mask": 2 * ONES}, ValueError, "attention_mask holds 2"),
        ({"labels": LABELS}, ValueError, "['labels']"),
        ({"max_new_token": 2}, ValueError, "['max_new_token']"),
    ],
)
def test_generate(model, arguments, error, message):
    refused(lambda: model.generate(**{"input_ids": IDS, "max_new_tokens": 2, **arguments}), error, message)


def test_numbers_of_numpy_are_taken():
    assert build(retrieval_method="bm25").generate(IDS, max_new_tokens=numpy.int64(2)).shape == (2, 102)


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        ("hello", TypeError, "messages is a str and must be a list of messages"),
        (None, TypeError, "messages is a NoneType"),
        (USER, TypeError, "messages is a dict"),
        ((part for part in [USER]), TypeError, "messages is a generator"),
        ([], ValueError, "the last message's role is 'missing'"),
        (["hello"], ValueError, "message 0 is 'hello'; it must have a 'role' and a text as 'content'"),
        ([{"role": 3, "content": "a"}, USER], ValueError, "message 0 is {'role': 3"),
        ([{"role": "", "content": "a"}, USER], ValueError, "message 0 is {'role': ''"),
        ([{"role": "user", "contents": "a"}], ValueError, "message 0 is {'role': 'user', 'contents': 'a'}"),
        ([{"role": "user", "content": ["a"]}], ValueError, "message 0 is"),
        ([{"role": "user", "content": "  "}], ValueError, "the last message's content is blank"),
        ([USER, {"role": "assistant", "content": "there"}], ValueError, "the last message's role is 'assistant'"),
    ],
)
def test_messages_of_chat(model, messages, error, message):
    refused(lambda: model.chat(messages, max_new_tokens=2), error, message)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens=0 must be from 1"),
        ({"max_new_tokens": "2"}, TypeError, "max_new_tokens='2' must be"),
        ({"num_beams": 0}, ValueError, "num_beams=0 must be from 1"),
        ({"generation_config": 3}, TypeError, "generation_config=3 must be"),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences=2 must be 1, as chat gives one answer"),
        *[
            ({name: value}, TypeError, f"leave {name} out")
            for name, value in {
                "input_ids": IDS, "inputs": IDS, "attention_mask": ONES, "inputs_embeds": torch.ones(1, 4, 32),
                "labels": IDS, "return_dict_in_generate": True,
            }.items()
        ],
    ],
)  # fmt: skip
def test_arguments_of_chat(model, arguments, error, message):
    refused(lambda: model.chat([USER], **arguments), error, message)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model_kwargs": {"revision": "main"}}, ValueError, "model_kwargs={'revision': 'main'} is for loading"),
        ({"retriever_kwargs": {"token": "x"}}, ValueError, "retriever_kwargs={'token': 'x'} is for loading"),
        ({"retriever": None, "retriever_kwargs": {"revision": "main"}}, ValueError, "there is nothing to load"),
        ({"model_kwargs": "main"}, TypeError, "model_kwargs='main' must be a dict"),
        ({"retriever_kwargs": ["main"]}, TypeError, "retriever_kwargs=['main'] must be a dict"),
        ({"retriever": ByteCounter}, TypeError, "retriever is the class ByteCounter and must be an object of it"),
        ({"retriever": 3}, TypeError, "retriever is a int without encode"),
        ({"model": 5}, TypeError, "model=5 must be a causal LM"),
        ({"model": tiny_backbone(lm_head=False)}, ValueError, "LlamaModel, without the head of a language model"),
        (
            {"model": tiny_backbone("bert")},
            ValueError,
            "model is an encoder (bert), whose tokens see those behind them",
        ),
        ({"tokenizer": "gpt2"}, TypeError, "tokenizer='gpt2' must be a transformers tokenizer"),
    ],
)
def test_from_components(arguments, error, message):
    given = {"model": tiny_backbone(), "tokenizer": tiny_tokenizer(), "retriever": ByteCounter(), **arguments}
    refused(lambda: SelfRetrievalLM.from_components(**given, **SETTINGS), error, message)


class Retriever:
    """A user's own, whose embeddings are made by `make` for so many texts."""

    def __init__(self, make: Callable[[int], Any]):
        self.make = make

    def encode(self, texts: list[str]) -> Any:
        return self.make(len(texts))


USES: dict[str, Callable[[SelfRetrievalLM], Any]] = {
    "forward": lambda model: model(IDS, labels=LABELS),
    "dialogue": lambda model: model(**CHAT),
    "generate": lambda model: model.generate(IDS, max_new_tokens=2),
    "chat": lambda model: model.chat([{"role": "user", "content": "a " * 20}] * 3 + [USER], max_new_tokens=2),
    "perplexity": lambda model: model.compute_perplexity([{"input_ids": IDS, "labels": LABELS}], show_progress=False),
}


@pytest.mark.cases(4)
@pytest.mark.parametrize("method", ["dense", "hybrid"])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda n: None, TypeError, "returned a NoneType"),
        (lambda n: torch.full((n, 4), math.nan), ValueError, "returned NaN or infinity"),
        (lambda n: numpy.full((n, 4), math.inf), ValueError, "returned NaN or infinity"),
        (lambda n: torch.ones(n + 1, 4), ValueError, "returned shape"),
        (lambda n: torch.ones(n, 0), ValueError, "returned shape"),
        (lambda n: torch.ones(n), ValueError, "returned shape"),
        (lambda n: torch.ones(n, 4, 1), ValueError, "returned shape"),
        (lambda n: torch.ones(n, 4, dtype=torch.complex64), TypeError, "returned a Tensor; it must return"),
        (lambda n: numpy.ones((n, 4), dtype=bool), TypeError, "returned a ndarray; it must return"),
        (lambda n: torch.eye(n, 4).to_sparse(), TypeError, "returned a Tensor; it must return"),
        (lambda n: [["a"]] * n, TypeError, "returned a list; it must return"),
        (lambda n: torch.ones(n, 4, device="meta"), TypeError, "returned a Tensor; it must return"),
        (lambda n: torch.full((n, 4), 1e30), ValueError, "inner products of the embeddings are not finite"),
    ],
)  # fmt: skip
def test_embeddings_of_a_users_retriever(method, use, make, error, message):
    refused(lambda: USES[use](build(Retriever(make), retrieval_method=method)), error, message)


def test_embeddings_of_several_widths():
    widths = iter(range(4, 100))
    model = build(Retriever(lambda n: torch.ones(n, next(widths))), retrieval_method="dense")
    refused(lambda: model.generate(IDS, max_new_tokens=40), ValueError, "wide and must be of one width")


def test_states_that_are_not_finite_are_not_compared():
    model = build(retrieval_method="self")
    torch.nn.init.constant_(model.language_model.base_model.norm.weight, math.nan)
    refused(lambda: model(IDS, labels=LABELS), ValueError, "inner products of the embeddings are not finite")


@pytest.mark.parametrize("family", ["llara", "srlm"])
@pytest.mark.parametrize("form", ["model", "folder"])
def test_a_model_of_ours_is_no_language_model(tmp_path, family, form):
    model = build_family(family)
    if form == "folder":
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"is of type 'lookback_{family}', no plain causal LM: load it with"):
        SelfRetrievalLM.from_components(model if form == "model" else tmp_path, tiny_tokenizer(), **SETTINGS)
