"""Generation: parity with the backbone, with forward, with a plain loop; batches, beams, arguments, bad input."""

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria, TextStreamer
from transformers.utils import logging

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.cache_srlm import BoundedLayer
from modeling_srlm.lookup_srlm import TokenLookup
from tests.support import quick_first
from tests.support.srlm import ByteCounter
from tests.support.tiny import DECODERS, random_ids, tiny_backbone, tiny_tokenizer

SETTINGS = {"context_window_size": 64, "chunk_size": 8, "key_num": 2, "target_size": 16}
METHODS = ("no", "recent", "random", "bm25", "dense", "self", "hybrid")
# Every family once without and once with retrieval, two of them with every method.
CASES = [(family, method) for family in DECODERS for method in ("no", "bm25")]
CASES += [(family, method) for family in ("llama", "gpt2") for method in METHODS if method not in ("no", "bm25")]


def build(family: str = "llama", **settings: object) -> SelfRetrievalLM:
    defaults = {"tokenizer": tiny_tokenizer(), "retriever": ByteCounter(), **SETTINGS}
    model = SelfRetrievalLM.from_components(tiny_backbone(family, eos_token_id=None), **{**defaults, **settings})
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 2
    return model


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize(
    "arguments",
    quick_first(
        [{"num_beams": 3}, {}, {"do_sample": True, "top_k": 20, "temperature": 1.5}, {"repetition_penalty": 1.3}]
    ),
)
def test_inside_the_window_it_is_the_backbones_generate(family, arguments):
    model = build(family, retrieval_method="no")
    ids, mask = random_ids(3, 30), torch.ones(3, 30, dtype=torch.long)
    mask[0, :11] = 0
    results = []
    for generator in (model, model.language_model):
        torch.manual_seed(5)
        generator.generation_config.pad_token_id = 2
        results.append(generator.generate(ids, attention_mask=mask, max_new_tokens=20, **arguments))
    assert torch.equal(*results)


@pytest.mark.cases(2)
@pytest.mark.parametrize(("family", "method"), CASES)
@pytest.mark.parametrize("integrate_method", quick_first(["concat", "replace"]))
def test_forward_gives_new_tokens_the_logits_that_they_were_chosen_by(family, method, integrate_method):
    model = build(family, retrieval_method=method, integrate_method=integrate_method, key_num=1, add_bos=True)
    prompt = random_ids(1, 141)
    output = model.generate(prompt, max_new_tokens=48, return_dict_in_generate=True, output_logits=True)
    labels = output.sequences.clone()
    labels[:, :141] = -100
    scored = model(output.sequences, labels=labels, output_logits=True)
    torch.testing.assert_close(torch.stack(output.logits, dim=1), scored.logits[:, 140:-1], atol=2e-4, rtol=1e-4)
    retrieved = torch.stack([indices for _, indices, _ in output.past_key_values.retrievals], dim=1)
    assert torch.equal(retrieved, scored.retrieved_indices)
    assert [new for new, _, _ in output.past_key_values.retrievals] == [0, 8, 16, 24, 32, 40]


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_does_not_feel_its_batch(family, side):
    model = build(family, retrieval_method="bm25")
    prompts = [random_ids(1, length, seed=length) for length in (3, 41, 150)]
    batch, mask = torch.full((3, 150), 1), torch.zeros(3, 150, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        place = slice(150 - prompt.shape[1], 150) if side == "left" else slice(prompt.shape[1])
        batch[row, place], mask[row, place] = prompt[0], 1
    together = model.generate(batch, attention_mask=mask, max_new_tokens=30)
    for row, prompt in enumerate(prompts):
        alone = model.generate(prompt, max_new_tokens=30)
        assert torch.equal(together[row, 150 - prompt.shape[1] :], alone[0])


def test_without_cache_it_is_the_same():
    model, prompt = build(retrieval_method="bm25"), random_ids(2, 130)
    assert torch.equal(
        model.generate(prompt, max_new_tokens=30), model.generate(prompt, max_new_tokens=30, use_cache=False)
    )


@pytest.mark.cases(1)
@pytest.mark.parametrize("use_cache", [True, False])
def test_beams_retrieve_each_for_itself(use_cache):
    """With as many beams as sequences kept, each returned beam scores what forward says of it."""
    model, prompt = build(retrieval_method="bm25", target_size=8), random_ids(2, 140)
    output = model.generate(
        prompt, max_new_tokens=24, num_beams=4, num_return_sequences=4, length_penalty=0.0, use_cache=use_cache,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    assert len(torch.unique(output.sequences, dim=0)) > 2
    retrieved = torch.stack([indices for _, indices, _ in output.past_key_values.retrievals], dim=1)
    for number, (sequence, score) in enumerate(zip(output.sequences, output.sequences_scores, strict=True)):
        labels = sequence[None].clone()
        labels[:, :140] = -100
        scored = model(sequence[None], labels=labels)
        assert score.item() == pytest.approx(-24 * scored.loss.item(), rel=1e-4)
        assert torch.equal(retrieved[number], scored.retrieved_indices[0])


def test_what_beams_looked_back_at_is_that_of_the_sequences_that_are_returned():
    """Of those that ended early up to their end, whatever came of the other beams."""
    model, prompt = build(retrieval_method="bm25", target_size=8), random_ids(2, 140)
    output = model.generate(
        prompt, max_new_tokens=30, num_beams=4, num_return_sequences=3, eos_token_id=[*range(3, 60)],
        return_dict_in_generate=True,
    )  # fmt: skip
    lengths = (output.beam_indices >= 0).sum(dim=1).tolist()
    assert min(lengths) < max(lengths) > 8
    for number, length in enumerate(lengths):
        sequence = output.sequences[number : number + 1, : 140 + length]
        labels = sequence.clone().index_fill_(1, torch.arange(140), -100)
        found = [indices[number].tolist() for _, indices, _ in output.past_key_values.retrievals]
        told = model(sequence, labels=labels, prompt_length=140).retrieved_indices[0].tolist()
        assert found == told + [[-1, -1]] * (len(found) - len(told))


def test_arguments_of_transformers_work():
    model, prompt = build(retrieval_method="bm25"), random_ids(1, 100)

    class After(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= 111)

    assert model.generate(prompt, max_new_tokens=30, stopping_criteria=[After()]).shape == (1, 111)
    config = GenerationConfig(max_new_tokens=9, do_sample=True, num_return_sequences=3, pad_token_id=2)
    torch.manual_seed(0)
    several = model.generate(input_ids=prompt, generation_config=config)
    assert several.shape == (3, 109)
    assert len(torch.unique(several, dim=0)) == 3
    greedy = model.generate(prompt, max_new_tokens=12)
    first = greedy[0, 104].item()
    stopped = model.generate(prompt, max_new_tokens=12, eos_token_id=first)
    assert stopped.shape[1] == 101 + greedy[0, 100:].tolist().index(first)
    assert model.generate(prompt).shape == (1, 120)
    assert model.generate(prompt, max_length=105).shape == (1, 105)


def test_streamer_gets_every_token(capsys):
    model, prompt = build(retrieval_method="bm25"), random_ids(1, 60)
    ids = model.generate(prompt, max_new_tokens=20, streamer=TextStreamer(model.tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.rstrip("\n") == model.tokenizer.decode(ids[0, 60:]).rstrip("\n")


def test_memory_is_bounded():
    model = build(retrieval_method="bm25")
    output = model.generate(random_ids(1, 400), max_new_tokens=150, return_dict_in_generate=True)
    layers = output.past_key_values.layers
    assert all(type(layer) is BoundedLayer for layer in layers)
    assert all(layer.memory[0].shape[2] == 64 + 2 * 2 * 8 + 1 for layer in layers)


@pytest.mark.parametrize("family", quick_first(DECODERS))
@pytest.mark.parametrize("do_sample", quick_first([True, False]))
def test_guesses_change_nothing_but_the_number_of_passes(family, do_sample):
    model, passes = build(family, retrieval_method="bm25", chunk_size=16), {}
    prompt = random_ids(1, 30).repeat(1, 5)  # where the same comes again, guesses are often right

    def generate(**arguments):
        calls = []
        handle = model.language_model.register_forward_pre_hook(lambda *_: calls.append(1))
        torch.manual_seed(3)
        output = model.generate(
            prompt, max_new_tokens=80, do_sample=do_sample, temperature=0.2 if do_sample else 1.0,
            return_dict_in_generate=True, output_logits=True, **arguments,
        )  # fmt: skip
        handle.remove()
        return output, len(calls)

    plain, passes["plain"] = generate(prompt_lookup_num_tokens=0)
    for name, arguments in (("default", {}), ("two", {"prompt_lookup_num_tokens": 2})):
        guessed, passes[name] = generate(**arguments)
        assert torch.equal(plain.sequences, guessed.sequences)
        torch.testing.assert_close(torch.stack(plain.logits), torch.stack(guessed.logits), atol=2e-4, rtol=1e-4)
    assert passes["plain"] == 80
    assert max(passes["default"], passes["two"]) <= 80
    config = GenerationConfig(max_new_tokens=5, prompt_lookup_num_tokens=0, pad_token_id=2)
    assert torch.equal(model.generate(prompt, config), plain.sequences[:, :155]) or do_sample


def test_a_generation_config_is_taken_without_a_warning(monkeypatch):
    said = []
    monkeypatch.setattr(logging.logging.Logger, "warning_once", lambda self, text, *args: said.append(text))
    model, prompt = build(context_window_size=64), random_ids(1, 100)
    settings = GenerationConfig(max_new_tokens=5, prompt_lookup_num_tokens=2, pad_token_id=2)
    found = model.generate(prompt, settings)
    assert not said and settings.prompt_lookup_num_tokens == 2
    assert torch.equal(found, model.generate(prompt, max_new_tokens=5, pad_token_id=2))
    model.generation_config.prompt_lookup_num_tokens = 3  # the repo's own, which transformers would take up
    assert torch.equal(found, model.generate(prompt, GenerationConfig(max_new_tokens=5, pad_token_id=2)))


def test_right_guesses_save_passes():
    model, calls = build(retrieval_method="no", context_window_size=256, target_size=64, chunk_size=64), []
    with torch.no_grad():  # the same token again and again
        model.language_model.lm_head.weight.zero_()
    model.language_model.register_forward_pre_hook(lambda *_: calls.append(1))
    ids = model.generate(torch.zeros(1, 30, dtype=torch.long), max_new_tokens=60)
    assert (ids == 0).all()
    assert len(calls) < 60 / 4


def test_lookup_proposes_what_followed_last():
    lookup = TokenLookup(max_guesses=8)
    lookup.start([1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 2, 3])
    assert lookup.guess(8) == [6, 7, 2, 3][: lookup.count]
    assert lookup.guess(1) == [6]
    lookup.add(9)
    assert lookup.guess(8) == []
    lookup.start([5, 1, 2, 3, 4, 8, 2, 3, 9, 1, 2, 3])
    assert lookup.guess(2) == [4, 8]  # three tokens alike go before two
    for _ in range(4):
        lookup.learn(4, 0)
    assert lookup.guess(8) == []
    lookup.pause = 0
    lookup.learn(1, 1)
    assert lookup.guess(8) == [4, 8]
    lookup.start([7, 5, 6, 5, 6, 5, 6])
    assert lookup._copy(5, 6) == [5, 6, 5, 6, 5, 6]


@pytest.mark.cases(1)
@pytest.mark.parametrize("method", ["no", "bm25"])
def test_backbones_with_sliding_windows(method):
    backbone = tiny_backbone("mistral", sliding_window=24, eos_token_id=None)
    model = SelfRetrievalLM.from_components(backbone, tiny_tokenizer(), retrieval_method=method, **SETTINGS)
    prompt = random_ids(2, 141)
    mask = torch.ones(2, 141, dtype=torch.long)
    mask[0, :120] = 0
    ids = model.generate(prompt, attention_mask=mask, max_new_tokens=40)
    assert torch.equal(ids, model.generate(prompt, attention_mask=mask, max_new_tokens=40, use_cache=False))


def test_a_cache_that_is_full_of_the_same_keys_is_kept():
    """Where neither keys nor window start change, the input is read once for a block."""
    model, lengths = build(retrieval_method="no", target_size=32), []
    model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    model.generate(random_ids(1, 200), max_new_tokens=64, prompt_lookup_num_tokens=0)
    assert [length for length in lengths if length > 1] == [32, 32]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m, ids: m.generate(ids, max_new_tokens=0), "max_new_tokens=0 must be from 1 to"),
        (lambda m, ids: m.generate(ids, guidance_scale=3), "guidance_scale=3"),
        (lambda m, ids: m.generate(ids, penalty_alpha=0.6, top_k=4, trust_remote_code=True), "trust_remote_code=True"),
        (lambda m, ids: m.generate(), "input_ids"),
        (lambda m, ids: m.generate(ids[:, :0], max_new_tokens=1), "neither of them 0"),
        (lambda m, ids: m.generate(ids + 600, max_new_tokens=1), "backbone has 512 tokens"),
        (lambda m, ids: m.generate(ids, attention_mask=ids * 0, max_new_tokens=1), "row 0"),
    ],
)
def test_bad_input_is_named(call, text):
    with pytest.raises(ValueError) as caught:
        call(build(retrieval_method="bm25"), random_ids(1, 20))
    assert text in str(caught.value)


def test_oracle_cannot_generate():
    with pytest.raises(ValueError, match="needs the target"):
        build(retrieval_method="oracle").generate(random_ids(1, 20), max_new_tokens=2)


@pytest.mark.slow
def test_forward_gives_any_number_of_new_tokens_their_probabilities():
    """16 new tokens of a block of 64: the window starts where the whole block's does, told the prompt's length."""
    for family, method in CASES:
        model = build(family, retrieval_method=method, context_window_size=128, target_size=64)
        prompt = random_ids(1, 300)
        output = model.generate(prompt, max_new_tokens=16, return_dict_in_generate=True, output_logits=True)
        found = model(output.sequences, prompt_length=300).logits[:, 299:-1]
        torch.testing.assert_close(found, torch.stack(output.logits, dim=1), atol=2e-4, rtol=1e-4)


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", quick_first(["self", "no", "bm25", "dense", "random"]))
@pytest.mark.parametrize(
    "settings", quick_first([{"target_size": None}, {"integrate_method": "replace", "key_num": 1}])
)
@pytest.mark.parametrize("arguments", quick_first([{"do_sample": True, "num_return_sequences": 2}, {}]))
def test_padded_batches_of_any_length_get_their_probabilities(family, method, settings, arguments):
    model = build(family, retrieval_method=method, add_bos=True, **settings)
    prompts, mask = random_ids(3, 141, seed=4), torch.ones(3, 141, dtype=torch.long)
    mask[1, 120:] = 0  # on the right: generate moves it to the left
    mask[2, :139] = 0
    torch.manual_seed(3)
    kept = {"return_dict_in_generate": True, "output_logits": True, "top_k": 0}
    output = model.generate(prompts, attention_mask=mask, max_new_tokens=45, **kept, **arguments)
    copies = arguments.get("num_return_sequences", 1)
    prompt_mask = mask.sort(dim=1).values.repeat_interleave(copies, dim=0)
    for new in (1, 7, 8, 16, 21, 45):
        ids = output.sequences[:, : 141 + new]
        full = torch.cat([prompt_mask, torch.ones(len(ids), new, dtype=torch.long)], dim=1)
        labels = ids.clone()
        labels[:, :141] = -100
        scored = model(ids, full, labels, output_logits=True, prompt_length=141)
        wanted = torch.stack(output.logits[:new], dim=1)
        torch.testing.assert_close(scored.logits[:, 140:-1], wanted, atol=2e-4, rtol=1e-4)
        loss = torch.nn.functional.cross_entropy(wanted.flatten(0, 1), ids[:, 141:].flatten())
        assert (
            scored.loss.item() == pytest.approx(loss.item(), abs=1e-4)
            and scored.num_scored_tokens == ids[:, 141:].numel()
        )
        chunks = [indices for _, indices, _ in output.past_key_values.retrievals][: -(-new // 8)]
        assert torch.equal(scored.retrieved_indices, torch.stack(chunks, dim=1))
        unlabelled = model(ids, full, prompt_length=141).logits
        torch.testing.assert_close(unlabelled[:, 140:-1], wanted, atol=2e-4, rtol=1e-4)


def test_rows_that_stopped_early_get_their_probabilities():
    model = build(retrieval_method="bm25")
    prompts = random_ids(2, 90)
    first = model.generate(prompts, max_new_tokens=30)
    stop = int(first[0, 90 + 11])
    output = model.generate(
        prompts, max_new_tokens=30, eos_token_id=stop, return_dict_in_generate=True, output_logits=True
    )
    length = int((first[0, 90:] == stop).nonzero()[0]) + 1
    mask = torch.ones_like(output.sequences)
    mask[0, 90 + length :] = 0
    found = model(output.sequences, mask, prompt_length=90).logits[0, 89 : 89 + length]
    torch.testing.assert_close(found, torch.stack(output.logits, dim=1)[0, :length], atol=2e-4, rtol=1e-4)


def test_the_prompt_itself_is_scored_as_without_new_tokens():
    """Before the prompt's end the blocks are those of the prompt alone."""
    model = build(retrieval_method="bm25")
    ids = random_ids(1, 150)
    alone = model(ids[:, :141], labels=ids[:, :141], output_logits=True).logits[:, :-1]
    whole = model(ids, labels=ids, output_logits=True, prompt_length=141).logits[:, :140]
    torch.testing.assert_close(whole, alone, atol=2e-4, rtol=1e-4)
    none = torch.full_like(ids, -100)
    none[0, 40] = ids[0, 40]
    assert model(ids, labels=none, prompt_length=141).num_scored_tokens == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt_length": 0}, ValueError, "prompt_length=0 must be at least 1"),
        ({"prompt_length": True}, TypeError, "prompt_length=True must be a whole number"),
        ({"prompt_length": 41}, ValueError, "prompt_length=41 is longer than the rows of 40 tokens"),
        ({"prompt_length": 3, "attention_mask": torch.ones(1, 40).long().triu(4)}, ValueError, "row 0 has no token"),
    ],
)
def test_a_wrong_prompt_length_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        build(retrieval_method="no")(random_ids(1, 40), **arguments)
