"""`score_candidates` with `reuse_states`: against the mode written out slowly, and against forward."""

import math

import pytest
import torch

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.stream_srlm import Stream
from tests.support import quick_first
from tests.support.reuse import build, slow_logits
from tests.support.srlm import ByteCounter
from tests.support.tiny import random_ids

SIZE, WINDOW_CHUNKS = 16, 4


def last(target: int, keys: int) -> list[int]:
    """What "recent" retrieves with k = 2, as in the text."""
    return [key for key in (keys - 2, keys - 1) if key >= 0]


def likelihood(model: SelfRetrievalLM, ids: torch.Tensor, target: int, candidate: int) -> torch.Tensor:
    """The slow way: the text anew, where this one target is shown the candidate and all others what they retrieve."""
    logits = slow_logits(model, ids, lambda chunk, keys: [candidate] if chunk == target else last(chunk, keys))
    tokens = torch.arange(target * SIZE, min((target + 1) * SIZE, len(ids)))
    return logits[tokens - 1].log_softmax(-1).gather(1, ids[tokens, None]).sum()


@pytest.mark.slow
@pytest.mark.parametrize("family", quick_first(["gemma3_text", "llama", "qwen3", "mistral", "phi"]))
def test_it_is_the_mode_written_out_slowly(family):
    model = build(family, retrieval_method="recent", chunk_batch_size=3)
    if family == "mistral":  # one that sees further than its window
        model.language_model.config.sliding_window = 400
    ids = random_ids(1, 10 * SIZE + 6)
    found = model.score_candidates(ids, labels=ids)[0]
    assert found.shape == (11, 5)
    for target in range(11):
        for key in range(5):
            if key < target - WINDOW_CHUNKS - 1:
                expected = likelihood(model, ids[0], target, key)
                torch.testing.assert_close(found[target, key], expected, atol=1e-4, rtol=1e-5)
            else:
                assert found[target, key] == float("-inf")
    assert found[-1].std() > 0.05  # candidates that differ


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *((method, {}) for method in ("recent", "random", "bm25", "dense", "self", "hybrid")),
        ("bm25", {"add_bos": True}), ("bm25", {"integrate_method": "replace"}), ("bm25", {"num_sink_tokens": 0}),
        ("bm25", {"store_dtype": "int8"}), ("bm25", {"store_place": "disk", "store_dtype": "bfloat16"}),
    ],
)  # fmt: skip
def test_what_was_retrieved_is_as_likely_as_in_forward(method, settings):
    model = build(retrieval_method=method, key_num=1, retriever=ByteCounter(), **settings)
    ids = random_ids(1, 210)
    labels = ids.clone()
    labels[:, :40] = -100
    labels[:, 150:170:3] = -100
    with torch.no_grad():
        output = model(ids, labels=labels)
    found = model.score_candidates(ids, labels=labels)[0]
    counts = torch.stack([(part != -100).sum() for part in labels[0].split(SIZE)])[2:]
    retrieved = output.retrieved_indices[0, :, 0]
    assert len(found) == len(retrieved) and (retrieved >= 0).sum() > 5
    for target in (retrieved >= 0).nonzero().flatten():
        expected = -output.target_losses[0, target] * counts[target]
        torch.testing.assert_close(found[target, retrieved[target]], expected, atol=1e-4, rtol=1e-5)


@pytest.mark.cases(1)
@pytest.mark.parametrize("settings", [{}, {"add_bos": True}, {"integrate_method": "replace"}, {"key_num": 3}])
@pytest.mark.parametrize("method", quick_first(["bm25", "no"]))
def test_batch_padding_and_size_of_passes_change_nothing(method, settings):
    model = build(retrieval_method=method, **{"key_num": 1, "chunk_batch_size": 1, **settings})
    ids = random_ids(3, 190)
    if model.config.add_bos:
        ids[2, 0] = model.config.bos_id  # a row that begins with it
    mask = torch.ones_like(ids)
    mask[0, :37] = 0  # padded on the left
    mask[1, 150:] = 0  # and on the right
    labels = ids.masked_fill(mask == 0, -100)
    alone = [
        model.score_candidates(ids[row, mask[row].bool()][None], labels=labels[row, mask[row].bool()][None])[0]
        for row in range(3)
    ]
    named = torch.tensor([[3, 0, 99, -1], [1, 1, -1, 2], [0, 5, 2, 7]])
    for size in (2, 7):
        model.config.chunk_batch_size = size
        together = model.score_candidates(ids, mask, labels)
        chosen = model.score_candidates(ids, mask, labels, named)
        assert together.shape == (3, *alone[2].shape) and chosen.shape == (*together.shape[:2], 4)
        for row, scores in enumerate(alone):
            height, width = scores.shape
            torch.testing.assert_close(together[row, :height, :width], scores, atol=1e-4, rtol=1e-5)
            assert (together[row, height:] == float("-inf")).all() and (
                together[row, :, width:] == float("-inf")
            ).all()
            for column, key in enumerate(named[row].tolist()):
                expected = scores[:, key] if 0 <= key < width else torch.full((height,), float("-inf"))
                torch.testing.assert_close(chosen[row, :height, column], expected, atol=1e-4, rtol=1e-5)


@pytest.mark.cases(1)
@pytest.mark.parametrize("reuse", [True, False])
def test_each_target_can_have_candidates_of_its_own(reuse):
    model = build(retrieval_method="no", chunk_batch_size=3, reuse_states=reuse)
    ids = random_ids(2, 16 * SIZE)
    mask = torch.ones_like(ids)
    mask[0, : 3 * SIZE + 1] = 0
    labels = ids.masked_fill(mask == 0, -100)
    every = model.score_candidates(ids, mask, labels)
    generator = torch.Generator().manual_seed(0)
    own = torch.randint(-1, 9, (2, every.shape[1], 3), generator=generator)
    found = model.score_candidates(ids, mask, labels, own)
    none = (own < 0) | (own >= every.shape[2])
    expected = every.gather(2, own.clamp(0, every.shape[2] - 1)).masked_fill(none, -math.inf)
    assert 5 < found.isfinite().sum() < found.numel() and none.any()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_own_candidates_are_all_that_is_read():
    model = build(retrieval_method="no", chunk_batch_size=4)
    ids, read = random_ids(1, 20 * SIZE), []
    model.language_model.register_forward_pre_hook(
        lambda module, args, inputs: read.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    model.score_candidates(ids, labels=ids, candidates=torch.tensor([[[-1, -1]] * 18 + [[0, 3], [5, -1]]]))
    assert sum(read) == 20 * SIZE + 3 * (SIZE - 1)


@pytest.mark.slow
def test_a_store_with_a_limit_computes_candidates_again():
    ids = random_ids(1, 300)
    exact, model = (build(retrieval_method="bm25", key_num=1, store_limit=limit) for limit in (None, 96))
    wanted, found = (one.score_candidates(ids, labels=ids) for one in (exact, model))
    real = wanted.isfinite()
    assert torch.equal(real, found.isfinite())
    assert 0 < (wanted - found)[real].abs().max() < 0.05 * wanted[real].abs().mean()
    model.config.chunk_batch_size = 5
    torch.testing.assert_close(model.score_candidates(ids, labels=ids), found, atol=1e-4, rtol=1e-5)


def test_a_candidate_costs_the_tokens_of_the_target():
    model = build(retrieval_method="no", chunk_batch_size=4)
    ids, read = random_ids(1, 40 * SIZE), []
    model.language_model.register_forward_pre_hook(
        lambda module, args, inputs: read.append(inputs["input_ids"].shape), with_kwargs=True
    )
    labels = ids.clone()
    labels[:, : -3 * SIZE] = -100
    model.score_candidates(ids, labels=labels, candidates=torch.arange(10)[None])
    assert [shape for shape in read if shape[0] > 1] == [(4, SIZE - 1), (4, SIZE - 1), (2, SIZE - 1)] * 3
    assert sum(shape.numel() for shape in read) == 40 * SIZE + 3 * 10 * (SIZE - 1)


@pytest.mark.parametrize(("method", "key_num"), [("no", 1), ("recent", 1), ("bm25", 2)])
def test_a_candidate_takes_the_place_of_the_oldest_tokens_where_retrieved_text_does(method, key_num):
    """Of as many as one value has, however many the text itself retrieves."""
    window = 16 * (4 * key_num)
    model = build(retrieval_method=method, key_num=key_num, integrate_method="replace", context_window_size=window)
    ids, seen = random_ids(1, 200), []
    model.language_model.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(
            (len(inputs["input_ids"]), inputs["past_key_values"].get_seq_length())
        ),
        with_kwargs=True,
    )
    model.score_candidates(ids, labels=ids)
    sinks = model.config.num_sink_tokens
    assert {length for rows, length in seen if rows == 2} == {sinks + model.config.context_window_size}


def test_a_model_in_training_is_asked_without_dropout_and_stays_in_training():
    model = build(retrieval_method="bm25")
    ids = random_ids(1, 150)
    wanted = model.score_candidates(ids, labels=ids)
    for layer in model.language_model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    assert torch.equal(model.score_candidates(ids, labels=ids), wanted) and model.language_model.training


def test_texts_without_a_key_or_a_label_have_no_candidate():
    model = build(retrieval_method="bm25")
    ids = random_ids(2, 90)
    labels = ids.clone()
    labels[1] = -100
    assert model.score_candidates(ids, labels=labels).shape == (2, 6, 0)
    found = model.score_candidates(ids, labels=labels, candidates=torch.zeros(2, 2, dtype=torch.long))
    assert found.shape == (2, 6, 2) and (found == float("-inf")).all()
    assert model.score_candidates(ids[:1, :1], labels=ids[:1, :1]).shape == (1, 1, 0)


def test_with_a_limit_candidates_leave_the_window_in_the_store(monkeypatch):
    model = build(
        retrieval_method="bm25", integrate_method="replace", context_window_size=96, key_num=2, store_limit=160
    )
    window_of, found = Stream.window_of, []

    def watched(self, row, first, end):
        found.extend(chunk.as_read for chunk in row.chunks[first:end])
        return window_of(self, row, first, end)

    monkeypatch.setattr(Stream, "window_of", watched)
    ids = random_ids(1, 260)
    model.score_candidates(ids, labels=ids.masked_fill(torch.arange(260) < 200, -100))
    assert len(found) > 50 and all(found)
