"""Chat: the window of recent turns, the retrieved ones before it, the backbone's answer."""

import pytest
import torch

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.chat_srlm import first_recent, split_turns
from tests.support import quick_first
from tests.support.srlm import CHAT_TEMPLATE, ByteCounter
from tests.support.tiny import tiny_backbone, tiny_tokenizer

PLACES = ("island", "library", "harbour", "garden", "tower", "cellar")
METHODS = ("no", "recent", "random", "bm25", "dense", "self", "hybrid")


def build(family: str = "llama", template: str | None = CHAT_TEMPLATE, **settings: object) -> SelfRetrievalLM:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    defaults = {"context_window_size": 128, "chunk_size": 16, "key_num": 2, "retrieval_method": "bm25"}
    backbone = tiny_backbone(family, eos_token_id=None)
    return SelfRetrievalLM.from_components(backbone, tokenizer, ByteCounter(), **{**defaults, **settings})


def conversation(question: str = "what did we hide in the harbour?") -> list[dict[str, str]]:
    messages = [{"role": "system", "content": "answer."}]
    for number, place in enumerate(PLACES):
        messages.append({"role": "user", "content": f"we went to the {place}, we went to the {place}"})
        messages.append({"role": "assistant", "content": f"we hid thing {number} there"})
    return [*messages, {"role": "user", "content": question}]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("order_method", ["sequential", "relevance"])
def test_the_relevant_turn_stands_before_the_recent_ones(family, order_method):
    model = build(family, order_method=order_method)
    messages = conversation()
    reply = model.chat(messages, max_new_tokens=8)
    prompt = model.tokenizer.decode(reply.input_ids[0])
    assert reply.retrieved_turns[0] == 2
    assert prompt.startswith("<s>system: answer.\n<s>user: ")
    assert prompt.endswith(messages[-1]["content"] + "\n<s>assistant: ")
    recent = first_recent(model, split_turns(messages))
    assert 2 < recent < 6
    standing = [number for number, place in enumerate(PLACES) if f"thing {number} " in prompt]
    assert standing == sorted({*reply.retrieved_turns, *range(recent, 6)})
    if order_method == "relevance" and len(reply.retrieved_turns) == 2:
        first, second = (prompt.index(f"thing {turn} ") for turn in reply.retrieved_turns)
        assert second < first
    assert reply.input_ids.shape[1] <= 128 + 2 * 32
    answer = model.language_model.generate(
        reply.input_ids, attention_mask=torch.ones_like(reply.input_ids), max_new_tokens=8
    )
    assert reply.content == model.tokenizer.decode(answer[0, reply.input_ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("integrate_method", ["concat", "replace"])
def test_every_method_chats(method, integrate_method):
    model = build(retrieval_method=method, integrate_method=integrate_method, context_window_size=144)
    reply = model.chat(conversation(), max_new_tokens=4)
    first = first_recent(model, split_turns(conversation()))
    assert all(turn < first for turn in reply.retrieved_turns)
    assert len(set(reply.retrieved_turns)) == len(reply.retrieved_turns)
    assert bool(reply.retrieved_turns) == (method != "no")
    assert reply.input_ids.shape[1] <= 144 + (64 if integrate_method == "concat" and method != "no" else 0)


def test_a_short_conversation_is_the_plain_template():
    model = build(context_window_size=512)
    reply = model.chat(conversation(), max_new_tokens=4)
    expected = model.tokenizer.apply_chat_template(conversation(), add_generation_prompt=True, return_dict=False)
    assert reply.input_ids[0].tolist() == expected
    assert reply.retrieved_turns == []


@pytest.mark.parametrize(
    ("messages", "settings", "text"),
    [
        ([], {}, "'missing'"),
        ([{"role": "assistant", "content": "a"}], {}, "'assistant'"),
        ([{"role": "user"}], {}, "message 0"),
        (conversation("long " * 200), {}, "room for 128"),
        (conversation(), {"retrieval_method": "oracle"}, "needs the answer"),
        (conversation(), {"template": None}, "chat template"),
    ],
)
def test_bad_input_is_named(messages, settings, text):
    with pytest.raises(ValueError, match=text):
        build(**settings).chat(messages, max_new_tokens=2)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_answer_past_the_positions_is_refused(family):
    model = build(family)
    model.config.text_config.max_position_embeddings = 192  # which the longest prompt has
    length = model.chat(conversation(), max_new_tokens=1).input_ids.shape[1]
    model.chat(conversation(), max_new_tokens=193 - length)  # the last of them is not read
    for given in ({"max_new_tokens": 194 - length}, {"max_length": 194}):
        with pytest.raises(ValueError, match=rf"has {length} tokens, .* need 193 .* has 192\. Lower"):
            model.chat(conversation(), **given)


def test_bos_stands_before_a_template_without_it():
    bare = CHAT_TEMPLATE.replace("<s>", "")
    prompts = [
        build(template=template, add_bos=add_bos).chat(conversation(), max_new_tokens=1).input_ids[0].tolist()
        for template, add_bos in ((bare, False), (bare, True), (CHAT_TEMPLATE, True))
    ]
    assert prompts[1] == [0, *prompts[0]] and prompts[2][0] == 0 != prompts[2][1]


@pytest.mark.parametrize("method", quick_first(["self", "no", "recent", "random", "bm25", "dense", "hybrid"]))
def test_with_kept_states_a_conversation_goes_on(method):
    """Each answer is that of a model that reads the whole conversation anew; what was read is not read again."""
    settings = {"retrieval_method": method, "reuse_states": True, "context_window_size": 64, "key_num": 1}
    model, fresh = build(**settings), build(**settings)
    sizes: list[int] = []
    model.language_model.register_forward_pre_hook(
        lambda module, args, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    messages = conversation()
    for question in ("and what in the tower?", "where is thing 1?"):
        reply = model.chat(messages, max_new_tokens=8, prompt_lookup_num_tokens=0)
        fresh._kept_states = None
        expected = fresh.chat(messages, max_new_tokens=8, prompt_lookup_num_tokens=0)
        assert reply.content == expected.content and reply.retrieved_turns == expected.retrieved_turns
        assert torch.equal(reply.input_ids, expected.input_ids)
        messages = [*messages, {"role": "assistant", "content": reply.content}, {"role": "user", "content": question}]
        sizes.clear()
    model.chat(messages, max_new_tokens=1)
    assert sum(sizes) < 160 < reply.input_ids.shape[1]


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "qwen"])
@pytest.mark.parametrize("add_bos", [False, True])
def test_with_kept_states_the_turn_of_a_retrieved_chunk_is_named(family, add_bos):
    model = build(family, reuse_states=True, key_num=1, context_window_size=64, add_bos=add_bos)
    for number, place in enumerate(PLACES[:4]):
        question = f"what did we hide when we went to the {place}, we went to the {place}?"
        reply = model.chat(conversation(question), max_new_tokens=2)
        assert number in reply.retrieved_turns
        assert reply.retrieved_turns == sorted(reply.retrieved_turns) and len(reply.retrieved_turns) <= 2
