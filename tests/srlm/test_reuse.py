"""`reuse_states`: each token once through the model, against the plain pass and the mode written out slowly."""

import pytest
import torch

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.moving_srlm import state_groups
from tests.support.reuse import REFUSED, ROTARY, SETTINGS, backbone, build, moved, slow_logits
from tests.support.srlm import ByteCounter
from tests.support.tiny import random_ids, tiny_tokenizer

METHODS = ("no", "recent", "random", "bm25", "dense", "self", "hybrid")


def last(target: int, keys: int) -> list[int]:
    """What "recent" retrieves with k = 2, as in the text."""
    return [key for key in (keys - 2, keys - 1) if key >= 0]


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ROTARY)
@pytest.mark.parametrize("add_bos", [False, True])
def test_a_window_that_holds_all_gives_the_plain_pass(family, add_bos):
    model = build(family, retrieval_method="no", context_window_size=256, add_bos=add_bos)
    ids = random_ids(2, 150)
    with torch.no_grad():
        plain = model.language_model(torch.cat([ids.new_zeros(2, int(add_bos)), ids], dim=1)).logits
        found = model(ids).logits
        loss = model(ids, labels=ids).loss
    plain = plain[:, int(add_bos) :]
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)
    expected = torch.nn.functional.cross_entropy(plain[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert plain.std() > 0.05  # logits that say something


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3_text", "phi"])
def test_it_is_the_mode_written_out_slowly(family):
    model = build(family, retrieval_method="recent")
    ids = random_ids(1, 330)
    with torch.no_grad():
        found = model(ids).logits[0]
        torch.testing.assert_close(found, slow_logits(model, ids[0], last), atol=1e-4, rtol=1e-4)


def test_retrieved_text_stands_in_the_order_that_is_asked_for():
    model = build(retrieval_method="recent", order_method="relevance")
    ids = random_ids(1, 250)
    with torch.no_grad():
        found = model(ids).logits[0]
        slow = slow_logits(model, ids[0], last)
    assert torch.equal(found, slow) is False
    torch.testing.assert_close(found, slow, atol=1e-4, rtol=1e-4)  # the most relevant is the last anyway
    model.config.retrieval_method, model.config.seed = "random", 3
    with torch.no_grad():
        output = model(ids, labels=ids, output_logits=True)
    chosen = {int(t): row for t, row in zip(output.target_indices[0], output.retrieved_indices[0], strict=True)}
    slow = slow_logits(
        model, ids[0], lambda target, keys: [key for key in reversed(chosen[target].tolist()) if key >= 0]
    )
    torch.testing.assert_close(output.logits[0, :-1], slow[:-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "phi", "gemma3_text"])
def test_moved_keys_are_those_that_are_computed_there(family):
    model = backbone(family)
    groups = state_groups(model, 300)
    ids = random_ids(1, 8)
    read = {}
    for start in (5, 222):
        read[start] = model(ids, position_ids=torch.arange(start, start + 8)[None], use_cache=True).past_key_values
    for group in groups:
        for layer in group.layers:
            keys, wanted = (read[start].layers[layer].keys for start in (5, 222))
            assert not torch.allclose(keys, wanted, atol=1e-2)
            torch.testing.assert_close(group.rotation.move_(keys.clone(), [217]), wanted, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(moved(model, layer, keys, 217), wanted, atol=1e-4, rtol=1e-4)


def test_half_precision_and_back_is_another_rotation():
    """The backbone's frequencies are rounded then, for good; keys are moved by those that it has."""
    ids = random_ids(1, 200)
    model = build(retrieval_method="bm25")
    with torch.no_grad():
        model(ids)
        model.to(torch.bfloat16).to(torch.float32)
        found = model(ids).logits
        settings = {**SETTINGS, "retrieval_method": "bm25"}
        fresh = SelfRetrievalLM.from_components(model.language_model, tiny_tokenizer(), **settings)
        torch.testing.assert_close(found, fresh(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("method", "integrate_method"), [*((name, "concat") for name in METHODS), ("bm25", "replace")]
)
def test_the_rest_of_the_batch_changes_nothing(method, integrate_method):
    model = build(retrieval_method=method, retriever=ByteCounter(), integrate_method=integrate_method, key_num=1)
    ids = random_ids(3, 190)
    mask = torch.ones_like(ids)
    mask[0, :37] = 0  # padded on the left
    mask[1, 150:] = 0  # and on the right
    labels = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        alone = [
            model(ids[row, mask[row].bool()][None], labels=ids[row, mask[row].bool()][None], output_logits=True)
            for row in range(3)
        ]
        for size in (2, 3):
            model.config.chunk_batch_size = size
            together = model(ids, mask, labels, output_logits=True)
            for row, output in enumerate(alone):
                real = mask[row].bool()
                torch.testing.assert_close(together.logits[row, real], output.logits[0], atol=1e-4, rtol=1e-4)
                count = output.retrieved_indices.shape[1]
                assert torch.equal(together.retrieved_indices[row, :count], output.retrieved_indices[0])
            total = sum(output.loss * output.num_scored_tokens for output in alone)
            assert together.num_scored_tokens == sum(output.num_scored_tokens for output in alone)
            torch.testing.assert_close(together.loss, total / together.num_scored_tokens, atol=1e-5, rtol=1e-5)


def test_scored_span_and_logits_alone_change_nothing():
    model = build(retrieval_method="bm25")
    ids = random_ids(1, 333)
    labels = ids.clone()
    labels[:, :200] = -100
    with torch.no_grad():
        whole, part, logits = model(ids, labels=ids), model(ids, labels=labels), model(ids).logits
    losses = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")
    torch.testing.assert_close(whole.loss, losses.mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part.loss, losses[199:].mean(), atol=1e-5, rtol=1e-5)
    assert torch.equal(part.retrieved_indices[0], whole.retrieved_indices[0, -part.target_indices.shape[1] :])


@pytest.mark.cases(1)
@pytest.mark.parametrize("settings", [{}, {"integrate_method": "replace", "key_num": 1}, {"add_bos": True}])
def test_positions_stay_below_the_bound_and_each_token_is_read_once(settings):
    model = build(retrieval_method="bm25", **settings)
    places, tokens = [], []
    forward = model.language_model.forward

    def watched(**inputs):
        places.append(inputs["position_ids"])
        tokens.append(inputs["input_ids"].numel())
        return forward(**inputs)

    model.language_model.forward = watched
    ids = random_ids(1, 700)
    with torch.no_grad():
        model(ids, labels=ids)
    assert max(int(part.max()) for part in places) < model.config.stream_positions
    assert min(int(part.min()) for part in places) >= 0
    assert sum(tokens) == 44 * 16 + model.config.add_bos


@pytest.mark.cases(2)
@pytest.mark.parametrize("place", ["device", "cpu", "disk"])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
def test_where_the_store_is_changes_nothing_and_its_numbers_little(place, dtype):
    exact = build(retrieval_method="recent", store_place="device")
    model = build(retrieval_method="recent", store_place=place, store_dtype=dtype)
    ids = random_ids(1, 400)
    with torch.no_grad():
        wanted, found = exact(ids).logits, model(ids).logits
    if dtype is None:
        assert torch.equal(found, wanted)
    else:
        assert 0 < (found - wanted).abs().max() < 0.2 * wanted.std()


def test_what_was_evicted_is_computed_again():
    exact, model = build(retrieval_method="bm25"), build(retrieval_method="bm25", store_limit=128)
    ids = random_ids(1, 600)
    with torch.no_grad():
        wanted, found = exact(ids, labels=ids), model(ids, labels=ids)
    assert torch.equal(wanted.retrieved_indices, found.retrieved_indices)
    assert 0 < (wanted.loss - found.loss).abs() < 0.02 * wanted.loss
    roomy = build(retrieval_method="bm25", store_limit="1MB")
    with torch.no_grad():
        assert roomy(ids, labels=ids).loss == wanted.loss


WHY = {"gpt2": "its keys are not rotated", "deepseek_v3": "its positions are in what it keeps as values"}


@pytest.mark.parametrize("family", REFUSED)
def test_families_whose_keys_do_not_move_are_named(family):
    said = rf"reuse_states=True is not possible with a '{family}' backbone: {WHY.get(family, '')}"
    with pytest.raises(ValueError, match=said):
        SelfRetrievalLM.from_components(backbone(family), tiny_tokenizer(), **{**SETTINGS, "retrieval_method": "bm25"})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retrieval_method": "oracle"}, "retrieval_method='oracle'"),
        ({"add_sep": [5]}, "add_sep"),
        ({"num_sink_tokens": 17}, "num_sink_tokens=17 must be"),
        ({"num_sink_tokens": -1}, "num_sink_tokens=-1 must be"),
        ({"store_place": "tape"}, "store_place='tape' is not known"),
        ({"store_dtype": "float8"}, "store_dtype='float8' is not known"),
        ({"store_limit": 100}, "store_limit=100 tokens must hold the window and the retrieved values, 128 tokens"),
        ({"store_limit": "much"}, "store_limit='much' must be"),
        ({"context_window_size": 2032}, "the backbone has 2048"),
    ],
)
def test_settings_that_it_cannot_do_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        build(**{"retrieval_method": "bm25", **settings})


def test_bytes_that_hold_no_window_are_named_before_work():
    message = r"store_limit='10kB' must hold .* 8 chunks of 4096 bytes, 33 kB"
    with pytest.raises(ValueError, match=message):
        build(retrieval_method="bm25", store_limit="10kB")
    model = build(retrieval_method="bm25")
    model.config.store_limit = "10kB"
    model.language_model.register_forward_pre_hook(lambda *_: pytest.fail("read"))
    with pytest.raises(ValueError, match=message):
        model(random_ids(1, 200))
