"""What one call of `generate` leaves to the next with `reuse_states`: the same answer as one that reads all anew."""

import copy
import pickle
import threading

import pytest
import torch

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from modeling_srlm.kept_states_srlm import start_reusing
from modeling_srlm.planning_srlm import Plan
from tests.support.reuse import build_endless as build
from tests.support.srlm import ByteCounter
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer


def answer(model: SelfRetrievalLM, ids: torch.Tensor, count: int = 10):
    """Greedy, with the logits of each new token and what was retrieved."""
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, return_dict_in_generate=True,
        output_logits=True, prompt_lookup_num_tokens=0,
    )  # fmt: skip


def assert_as_read_anew(model: SelfRetrievalLM, ids: torch.Tensor) -> None:
    found = answer(model, ids)
    model._kept_states = None
    expected = answer(model, ids)
    torch.testing.assert_close(found.logits[0], expected.logits[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(found.sequences, expected.sequences)
    first, fresh = (output.past_key_values.retrievals[0] for output in (found, expected))
    assert first[0] == fresh[0] == 0 and torch.equal(first[1], fresh[1])


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", ["bm25", "dense", "self", "hybrid", "recent", "random"])
@pytest.mark.parametrize("lengths", [(80, 40, 5), (80, 41, 3), (200, 3, 4), (90, 60, 20)])
def test_a_turn_that_ends_in_the_chunk_that_the_answer_left_open(method, lengths):
    """The first prompt ends where there is nothing to look back at yet, or does not; the next asks all the same."""
    prompt, new, question = lengths
    model = build(retrieval_method=method, key_num=1)
    said = answer(model, random_ids(1, prompt), new).sequences
    assert_as_read_anew(model, torch.cat([said, random_ids(1, question, seed=9)], dim=1))


def test_forward_gives_such_a_turn_its_logits():
    model = build(key_num=1)
    said = answer(model, random_ids(1, 80), 40).sequences
    ids = torch.cat([said, random_ids(1, 5, seed=9)], dim=1)
    found = answer(model, ids)
    with torch.no_grad():
        logits = model(found.sequences, prompt_length=ids.shape[1]).logits[:, ids.shape[1] - 1 : -1]
    torch.testing.assert_close(torch.stack(found.logits, dim=1), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.cases(2)
@pytest.mark.parametrize("lengths", [(5, 6), (1, 1), (0, 0), (20, 3), (3, 40)])
def test_another_text_behind_bos(lengths):
    model = build(add_bos=True)
    bos = torch.tensor([[model.config.bos_id]])
    first, second = (
        torch.cat([bos, random_ids(1, length, seed=seed) if length else bos[:, :0]], dim=1)
        for seed, length in enumerate(lengths)
    )
    answer(model, first, 3)
    assert_as_read_anew(model, second)
    answer(model, first[:, 1:] if lengths[0] else first, 3)
    assert_as_read_anew(model, second[:, 1:] if lengths[1] else second)


def negate(model: SelfRetrievalLM) -> None:
    for weight in model.language_model.parameters():
        weight.data.mul_(-1)


def halve_by_vector(model: SelfRetrievalLM) -> None:
    weights = list(model.language_model.parameters())
    vector = torch.nn.utils.parameters_to_vector(weights) * 0.5
    torch.nn.utils.vector_to_parameters(vector, weights)


def write_a_row(model: SelfRetrievalLM) -> None:
    """As the embedding of a new token is set; the last row is that of the prompt's sixth token."""
    table = model.get_input_embeddings().weight
    table.data[random_ids(1, 120)[0, 5]] = table.data.mean(dim=0)


def steer(model: SelfRetrievalLM) -> None:
    layer = model.language_model.model.layers[0].mlp
    layer.register_forward_hook(lambda module, inputs, output: output + 1)


def another_function(model: SelfRetrievalLM) -> None:
    model.language_model.model.layers[0].mlp.act_fn = torch.nn.ReLU()


def turn_otherwise(model: SelfRetrievalLM) -> None:
    model.language_model.model.rotary_emb.inv_freq.data.mul_(0.5)


CHANGES = {
    "weight.data": negate,
    "one row": write_a_row,
    "hook": steer,
    "module": another_function,
    "buffer": turn_otherwise,
    "weights of a vector": halve_by_vector,
    "number type": lambda model: model.to(torch.bfloat16),
    "pass": lambda model: model.eval(),
}


@pytest.mark.cases(1)
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_states_is_noticed(change):
    model = build()
    if change == "pass":
        model.language_model.config.attention_dropout = 0.5
        model.train()
    said = answer(model, random_ids(1, 120), 5).sequences
    with torch.no_grad():
        CHANGES[change](model)
    assert_as_read_anew(model, torch.cat([said, random_ids(1, 9, seed=4)], dim=1))


def test_what_stays_the_same_is_no_change():
    model = build(retrieval_method="self", key_num=1)
    model.language_model.model.layers[0].register_forward_hook(lambda *_: None)
    said = answer(model, random_ids(1, 120), 5).sequences
    stream = model._kept_states.state.stream
    answer(model, torch.cat([said, random_ids(1, 9, seed=4)], dim=1))
    assert model._kept_states.state.stream is stream


def test_of_two_threads_one_goes_on():
    """The other one comes in at the worst moment: before the first has written down that it took the states."""
    model = build()
    answer(model, random_ids(1, 120), 5)
    plan, streams = Plan.of(model), []

    def take() -> None:
        streams.append(start_reusing(model, plan, torch.Size([1, 120]), 0).stream)

    class Switching(SelfRetrievalLM):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "_kept_states":
                model.__class__ = SelfRetrievalLM
                take()
            SelfRetrievalLM.__setattr__(self, name, value)

    model.__class__ = Switching
    take()
    model.__class__ = SelfRetrievalLM
    take()
    assert sum(stream is not None for stream in streams) == 1


def test_autocast_and_inference_mode_are_noticed():
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        said = answer(model, random_ids(1, 120), 5).sequences
    assert_as_read_anew(model, torch.cat([said, random_ids(1, 9, seed=4)], dim=1))
    with torch.inference_mode():
        said = answer(model, random_ids(1, 120), 5).sequences
    assert_as_read_anew(model, torch.cat([said.clone(), random_ids(1, 9, seed=4)], dim=1))
    with torch.inference_mode():
        inside = build()
        answer(inside, random_ids(1, 40), 3)
        answer(inside, random_ids(1, 60), 3)


def test_an_output_keeps_what_it_retrieved():
    model = build(key_num=1)
    first = answer(model, random_ids(1, 140), 20)
    retrieved = [(new, indices.clone()) for new, indices, _ in first.past_key_values.retrievals]
    answer(model, torch.cat([first.sequences, random_ids(1, 30, seed=5)], dim=1))
    again = [(new, indices) for new, indices, _ in first.past_key_values.retrievals]
    assert len(again) == len(retrieved) and all(
        one[0] == other[0] and torch.equal(one[1], other[1]) for one, other in zip(again, retrieved, strict=True)
    )


@pytest.mark.cases(1)
@pytest.mark.parametrize("kept", [332, 300, 230])
def test_with_a_limit_a_text_that_goes_on_otherwise(kept):
    model = build(store_limit=192)
    said = answer(model, random_ids(1, 300), 40).sequences
    assert_as_read_anew(model, torch.cat([said[:, :kept], random_ids(1, 9, seed=4)], dim=1))


def test_a_window_of_chunks_that_were_computed_again_is_not_gone_back_to():
    model = build(key_num=2, context_window_size=32, store_limit=96)
    ids = random_ids(1, 300)
    answer(model, torch.cat([ids, ids[:, :8], ids[:, 16:24]], dim=1), 4)  # asks for the first chunks
    assert any(chunk.computed_again for chunk in model._kept_states.state.stream.rows[0].chunks[1:3])
    assert_as_read_anew(model, torch.cat([ids[:, :51], random_ids(1, 9, seed=9)], dim=1))


@pytest.mark.cases(1)
@pytest.mark.parametrize("place", ["device", "disk"])
def test_copies_and_pickles_have_none(place):
    model = build(store_place=place)
    ids = random_ids(1, 120)
    expected = answer(model, ids).sequences
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._kept_states is None and model._kept_states is not None
        assert torch.equal(answer(other, ids).sequences, expected)


def test_a_shallow_copy_leaves_alone_what_was_read():
    model = build(key_num=1)
    said = answer(model, random_ids(1, 200)).sequences
    answer(copy.copy(model), random_ids(1, 20, seed=3), 2)
    assert_as_read_anew(model, torch.cat([said, random_ids(1, 25, seed=4)], dim=1))


@pytest.mark.parametrize("settings", [{"reuse_states": False}, {"store_place": "disk"}], ids=["exact", "kept"])
def test_a_copy_of_an_output_holds_what_was_retrieved(settings):
    output = answer(build(key_num=1, **settings), random_ids(1, 120), 4)
    for other in (copy.deepcopy(output), pickle.loads(pickle.dumps(output))):
        assert torch.equal(other.sequences, output.sequences)
        for found, wanted in zip(other.past_key_values.retrievals, output.past_key_values.retrievals, strict=True):
            assert found[0] == wanted[0] and all(map(torch.equal, found[1:], wanted[1:]))
    assert len(pickle.dumps(output.past_key_values)) < 5000


def test_a_retriever_that_changes_is_noticed():
    model = build(retrieval_method="dense", key_num=1, retriever=ByteCounter())
    said = answer(model, random_ids(1, 140), 20).sequences
    nested = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean")
    own = build(retrieval_method="dense", key_num=1, retriever=nested)
    longer = torch.cat([answer(own, random_ids(1, 140), 20).sequences, random_ids(1, 30, seed=5)], dim=1)
    for weight in own.retriever.parameters():
        weight.data.copy_(torch.randn_like(weight))
    assert_as_read_anew(own, longer)
    model.retriever = type("Backwards", (), {"encode": lambda self, texts: -ByteCounter().encode(texts)})()
    assert_as_read_anew(model, torch.cat([said, random_ids(1, 30, seed=5)], dim=1))


class Wrapping:
    """A retriever that is no module and holds one."""

    def __init__(self, **held: object):
        self.held = {"net": torch.nn.Linear(64, 64), **held}

    def encode(self, texts: list[str]) -> torch.Tensor:
        return self.held["net"](ByteCounter().encode(texts))


def train(retriever: Wrapping) -> None:
    retriever.held["net"].weight.data.mul_(-1)


def test_what_a_retriever_holds_is_noticed():
    nested = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean")
    cases = [
        (Wrapping(), lambda retriever: None, True),
        (Wrapping(), train, False),
        (Wrapping(prefix="a"), lambda retriever: retriever.held.update(prefix="b"), False),
        (Wrapping(lock=threading.Lock()), lambda retriever: None, False),  # as a connection or a foreign index
        (nested, lambda retriever: None, True),
        (nested, lambda retriever: setattr(retriever.settings, "prompts", {"query": "ask: "}), False),
        (nested, lambda retriever: setattr(retriever.settings, "max_length", 4), False),
        (nested, lambda retriever: setattr(retriever, "tokenizer", tiny_tokenizer()), False),
    ]
    for number, (retriever, change, goes_on) in enumerate(cases):
        model = build(retrieval_method="dense", retriever=retriever)
        answer(model, random_ids(1, 20), 1)
        change(model.retriever)
        stream = start_reusing(model, Plan.of(model), torch.Size([1, 20]), 0).stream
        assert (stream is not None) == goes_on, number


def test_a_copy_of_what_was_read_is_of_its_own():
    """As people copy a cache: its layers write into its own memory, at its own place."""
    attended = answer(build(key_num=1), random_ids(1, 80), 4).past_key_values.stream.attended
    twin = copy.deepcopy(attended)
    states = torch.ones(1, *attended.layers[0].memory[0].shape[1:2], 1, attended.layers[0].memory[0].shape[-1])
    before, end = [part.clone() for part in attended.layers[0].memory], attended.end
    twin.advance(1)
    keys, _ = twin.layers[0].update(states, states)
    assert keys.shape[-2] == twin.end + 1 - twin.left and attended.end == end
    assert torch.equal(twin.memory[0][0][0, :, :, twin.end : twin.end + 1], states)
    assert all(torch.equal(*pair) for pair in zip(before, attended.layers[0].memory, strict=True))
