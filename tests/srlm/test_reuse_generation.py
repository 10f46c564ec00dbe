"""Generation with `reuse_states`: against the backbone's own, against forward, and going on from what was read."""

import pytest
import torch
from transformers import TextStreamer

from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.reuse import build_endless as build
from tests.support.tiny import random_ids

METHODS = ("no", "recent", "random", "bm25", "dense", "self", "hybrid")


def reading(model: SelfRetrievalLM) -> list[int]:
    """The sizes of the passes from now on, filled while they come."""
    sizes: list[int] = []
    model.language_model.register_forward_pre_hook(
        lambda module, args, inputs: sizes.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    return sizes


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3_text", "phi"])
@pytest.mark.parametrize(
    "arguments",
    quick_first(
        [{"num_beams": 3}, {}, {"do_sample": True, "top_k": 20, "temperature": 1.5}, {"repetition_penalty": 1.3}]
    ),
)
def test_inside_the_window_it_is_the_backbones_generate(family, arguments):
    model = build(family, retrieval_method="no", context_window_size=128)
    ids, mask = random_ids(3, 50), torch.ones(3, 50, dtype=torch.long)
    mask[0, :27] = 0
    results = []
    for generator in (model, model.language_model):
        torch.manual_seed(5)
        results.append(generator.generate(ids, attention_mask=mask, max_new_tokens=20, **arguments))
    assert torch.equal(*results)


@pytest.mark.cases(2)
@pytest.mark.parametrize(("method", "settings"), [
    *((method, {}) for method in METHODS), ("bm25", {"integrate_method": "replace", "key_num": 1}),
    ("bm25", {"add_bos": True}), ("self", {"add_key_continuation": True}),
])  # fmt: skip
def test_forward_gives_new_tokens_the_logits_that_they_were_chosen_by(method, settings):
    model = build(retrieval_method=method, **settings)
    for length in (141, 160):  # in a chunk, and at its end
        prompt = random_ids(1, length)
        output = model.generate(prompt, max_new_tokens=50, return_dict_in_generate=True, output_logits=True)
        with torch.no_grad():
            scored = model(output.sequences, labels=output.sequences, output_logits=True, prompt_length=length)
        found = torch.stack(output.logits, dim=1)
        torch.testing.assert_close(found, scored.logits[:, length - 1 : -1], atol=2e-4, rtol=1e-4)
        for new, indices, _ in output.past_key_values.retrievals[1:]:
            assert (length + new) % 16 == 1 and torch.equal(indices, scored.retrieved_indices[:, (length + new) // 16])


def test_rows_of_a_batch_are_what_they_are_alone():
    model = build()
    ids, mask = random_ids(4, 200), torch.ones(4, 200, dtype=torch.long)
    for row, missing in enumerate((100, 0, 8, 61)):
        mask[row, :missing] = 0
    together = model.generate(ids, attention_mask=mask, max_new_tokens=60)
    for row in range(4):
        alone = model.generate(ids[row, mask[row].bool()][None], max_new_tokens=60)
        assert torch.equal(together[row, -60:], alone[0, -60:])


@pytest.mark.cases(1)
@pytest.mark.parametrize("method", ["self", "bm25"])
def test_forward_knows_where_each_prompt_of_a_batch_ended(method):
    model = build(retrieval_method=method)
    ids, mask = random_ids(3, 190), torch.ones(3, 190, dtype=torch.long)
    mask[0, :41], mask[2, :77] = 0, 0
    output = model.generate(
        ids, attention_mask=mask, max_new_tokens=30, return_dict_in_generate=True, output_logits=True
    )
    mask = torch.nn.functional.pad(mask, (0, 30), value=1)
    with torch.no_grad():
        scored = model(output.sequences, mask, prompt_length=190)
        for row in range(3):
            alone = model(output.sequences[row, mask[row].bool()][None], prompt_length=int(mask[row, :190].sum()))
            torch.testing.assert_close(alone.logits[0, -31:], scored.logits[row, -31:], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(torch.stack(output.logits, dim=1), scored.logits[:, 189:-1], atol=2e-4, rtol=1e-4)


def test_the_end_of_a_prompt_asks_for_what_is_retrieved():
    model = build(retrieval_method="bm25", key_num=1)
    text = random_ids(1, 205)
    text[0, 199:205] = text[0, 33:39]  # words of chunk 2, in the chunk that begins with token 192
    found = model.generate(text, max_new_tokens=1, return_dict_in_generate=True)
    assert found.past_key_values.retrievals[0][1].tolist() == [[2]]


def test_beams_are_those_of_the_slow_way():
    model = build(retrieval_method="self")
    prompt = random_ids(1, 150)
    output = model.generate(
        prompt, max_new_tokens=40, num_beams=3, return_dict_in_generate=True, output_scores=True, length_penalty=0.0
    )
    with torch.no_grad():
        labels = output.sequences.clone().index_fill_(1, torch.arange(150), -100)
        scored = model(output.sequences, labels=labels, prompt_length=150)
    torch.testing.assert_close(-scored.loss * 40, output.sequences_scores[0], atol=1e-3, rtol=1e-4)
    for new, indices, _ in output.past_key_values.retrievals[1:]:  # of the one beam that is returned
        assert torch.equal(indices, scored.retrieved_indices[:, (150 + new) // 16 - 150 // 16])


@pytest.mark.cases(1)
@pytest.mark.parametrize("guesses", [1, 3, 8])
def test_guesses_change_nothing(guesses):
    model = build(retrieval_method="self")
    prompt = random_ids(1, 30).repeat(1, 6)
    plain = model.generate(prompt, max_new_tokens=80, prompt_lookup_num_tokens=0)
    model._kept_states = None
    sizes = reading(model)
    assert torch.equal(model.generate(prompt, max_new_tokens=80, prompt_lookup_num_tokens=guesses), plain)
    assert max(sizes[12:]) > 1


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kept", quick_first([201, 230, 70]))
def test_a_text_goes_on_without_being_read_again(method, kept):
    """All that was generated stays; an end is cut off some chunks before; or far before that."""
    model = build(retrieval_method=method, add_bos=True)
    sizes = reading(model)  # a hook that is new would be a reason to read anew
    first = model.generate(random_ids(1, 200), max_new_tokens=30)
    longer = torch.cat([first[:, :kept], random_ids(1, 25, seed=4)], dim=1)
    sizes.clear()
    found = model.generate(longer, max_new_tokens=40, prompt_lookup_num_tokens=0)
    prompt = sum(sizes) - 39
    if kept == 70 and method == "no":  # twice the window is kept, and no more: it begins anew
        assert prompt == kept + 25 + 1
    elif method in ("no", "recent", "random"):
        assert prompt <= 25 + 32 + 1
    else:  # from the chunk in which the first prompt ended; the last chunk twice where its own states ask
        assert prompt <= max(kept - 192, 0) + 25 + 16 + (25 if method == "self" else 0)
    model._kept_states = None
    assert torch.equal(found, model.generate(longer, max_new_tokens=40, prompt_lookup_num_tokens=0))


def test_what_other_weights_have_read_is_not_used():
    model = build()
    prompt = random_ids(1, 100)
    model.generate(prompt, max_new_tokens=4)
    with torch.no_grad():
        model.language_model.lm_head.weight.mul_(-1)
        model.language_model.model.layers[0].self_attn.v_proj.weight.mul_(-1)
    found = model.generate(prompt, max_new_tokens=20)
    model._kept_states = None
    assert torch.equal(found, model.generate(prompt, max_new_tokens=20))


def test_a_streamer_gets_the_text(capsys):
    model = build()
    sequences = model.generate(random_ids(1, 60), max_new_tokens=9, streamer=TextStreamer(model.tokenizer, True))
    assert model.tokenizer.decode(sequences[0, 60:]) in capsys.readouterr().out


def test_generation_that_it_cannot_do_is_named():
    model = build()
    with pytest.raises(ValueError, match="use_cache=False computes all states anew"):
        model.generate(random_ids(1, 20), use_cache=False)
