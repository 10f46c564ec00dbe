"""Memory goes when the last that needs it goes, and does not wait for the collector of cycles: that one runs after so
many objects, whatever their size, and a cache that it has to find is gigabytes by then."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support.families import build
from tests.support.reuse import build_endless
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer

METHODS = ("no", "bm25", "dense", "self")


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left_in_cycles(work: Callable[[], Any]) -> list[torch.Size]:
    """Shapes of the tensors that only the collector of cycles gives back after `work`, whose result is dropped."""
    with without_collector():
        work()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            return [one.shape for one in gc.garbage if isinstance(one, torch.Tensor)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()


def exact(method: str) -> SelfRetrievalLM:
    return SelfRetrievalLM.from_components(
        tiny_backbone(), tiny_tokenizer(), build("biencoder"), context_window_size=64, chunk_size=8, key_num=1,
        retrieval_method=method,
    )  # fmt: skip


def kept(method: str) -> SelfRetrievalLM:
    return build_endless(key_num=1, retrieval_method=method)


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [exact, kept])
def test_self_retrieval_lm(make, method):
    model, ids = make(method), random_ids(2, 200)

    def work() -> None:
        model(ids, labels=ids)
        model.generate(ids, max_new_tokens=3, num_beams=2)
        model.train()(ids, labels=ids).loss.backward()
        model.zero_grad()

    assert left_in_cycles(work) == []


@pytest.mark.cases(1)
@pytest.mark.parametrize("shared", [0, 100])
def test_a_text_that_another_follows(shared):
    """With `reuse_states` what a text has left stays for a turn that follows, and goes before another is read."""
    model, ids = kept("bm25"), random_ids(1, 200)
    other = torch.cat([ids[:, :shared], random_ids(1, 200, seed=5)[:, shared:]], dim=1)
    with without_collector():
        model.generate(ids, max_new_tokens=2)
        left = [weakref.ref(part) for part in model._kept_states.state.stream.attended.memory[0]]
        model.generate(other, max_new_tokens=2)
        memory = model._kept_states.state.stream.attended.memory[0]
        assert all(part() is None or any(part() is one for one in memory) for part in left)
        model._kept_states = memory = None
        assert all(part() is None for part in left)


def test_a_beginning_that_is_read_once():
    prompts = {"default": {"query": "a beginning that is long enough to be read once ", "passage": ""}}
    model = BiEncoderModel.from_backbone(
        tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="last_token", prompts=prompts
    )
    assert left_in_cycles(lambda: model.encode(["one text", "two"] * 4, role="query")) == []
