"""Dialogue mode: every method in batches, padding turns, truncation, errors."""

import pytest
import torch

from modeling_srlm import SelfRetrievalLM
from tests.support.srlm import ByteCounter
from tests.support.tiny import tiny_backbone, tiny_tokenizer, with_special_tokens

METHODS = ("no", "recent", "random", "bm25", "dense", "self", "hybrid", "oracle")
QUERIES = ["where did we leave the copper lantern?", "who answers the query?", "and the hammer?"]
HISTORIES = [
    ["Speaker 1: the copper lantern\nSpeaker 2: on the island", "Speaker 1: a candle", "Speaker 2: documents", "pad"],
    ["Speaker 1: passages\nSpeaker 2: they answer", "Speaker 1: long documents", "pad", "pad"],
    ["pad", "pad", "pad", "pad"],
]
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
ANSWERS = ["on the island, next to the candle", "the passage", "next to the candle and the library"]


def build(family: str = "llama", **settings: object) -> SelfRetrievalLM:
    defaults = {"context_window_size": 256, "chunk_size": 32, "key_num": 2, "chunk_batch_size": 2}
    return SelfRetrievalLM.from_components(
        tiny_backbone(family), tiny_tokenizer(), ByteCounter(), **{**defaults, **settings}
    )


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_conversation_does_not_feel_its_batch(family, method):
    instruction = {"query": "find: ", "key": "turn: "}
    model = build(family, retrieval_method=method, instruction=instruction)
    together = model.forward_with_history_retrieval(QUERIES, HISTORIES, ANSWERS, MASK)
    total = 0.0
    for row in range(3):
        turns = [turn for turn, real in zip(HISTORIES[row], MASK[row].tolist(), strict=True) if real]
        alone = model.forward_with_history_retrieval(QUERIES[row : row + 1], [turns], ANSWERS[row : row + 1])
        assert torch.equal(alone.retrieved_indices[0], together.retrieved_indices[row])
        total += alone.loss.item() * alone.num_scored_tokens
    assert together.loss.item() == pytest.approx(total / together.num_scored_tokens, rel=1e-5)
    chosen = together.retrieved_indices
    assert chosen.shape == (3, 1, 2)
    assert (chosen[2] == -1).all()
    for row in range(2):
        assert all(MASK[row, index] for index in chosen[row].flatten().tolist() if index >= 0)
    if method != "no":
        assert (chosen[:2] >= 0).all()


def test_recent_and_bm25_choose_as_they_should():
    recent = build(retrieval_method="recent").forward_with_history_retrieval(QUERIES, HISTORIES, ANSWERS, MASK)
    assert recent.retrieved_indices[:, 0].tolist() == [[2, 1], [1, 0], [-1, -1]]
    lexical = build(retrieval_method="bm25").forward_with_history_retrieval(QUERIES, HISTORIES, ANSWERS, MASK)
    assert lexical.retrieved_indices[:2, 0, 0].tolist() == [0, 0]


@pytest.mark.parametrize("add_bos", [False, True])
def test_a_text_without_a_token_is_like_no_other(add_bos):
    """By the model's own states as by BM25: it is relevant to nothing, and nothing to it."""
    model = build(retrieval_method="self", add_bos=add_bos)
    turns = [["the copper lantern", "", "the hammer"], ["", "", ""], ["the copper lantern", "the hammer", ""]]
    output = model.forward_with_history_retrieval([*QUERIES[:2], ""], turns, ANSWERS)
    scores = output.retrieved_scores[:, 0]
    assert output.loss.isfinite() and (scores[0].abs() > 0.01).any() and (scores[1:] == 0).all()


def test_with_kept_states_turns_are_chosen_by_the_same_states():
    models = [build(retrieval_method="self", reuse_states=reuse_states) for reuse_states in (False, True)]
    plain, kept = (model.forward_with_history_retrieval(QUERIES, HISTORIES, ANSWERS, MASK) for model in models)
    assert torch.equal(plain.retrieved_indices, kept.retrieved_indices)
    torch.testing.assert_close(plain.loss, kept.loss)


def test_only_the_answer_is_scored_and_the_window_keeps_it():
    model = build(context_window_size=32, chunk_size=16, key_num=1, retrieval_method="no")
    output = model.forward_with_history_retrieval(QUERIES[:1], HISTORIES[:1], ANSWERS[:1])
    text = "Speaker 1: " + QUERIES[0] + "\nSpeaker 2: " + ANSWERS[0]
    ids = torch.tensor([model.tokenizer(text)["input_ids"][-32:]])
    count = min(len(model.tokenizer(ANSWERS[0])["input_ids"]), 31)
    logits = model.language_model(ids).logits[0, -count - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, ids[0, -count:])
    assert output.num_scored_tokens == count
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_tokens_of_the_answers_are_counted_and_no_others():
    model = build(retrieval_method="recent")
    model.tokenizer = with_special_tokens()
    answers = [ANSWERS[0] + ", the hammer", *ANSWERS[1:]]
    lengths = torch.tensor([len(ids) for ids in model.tokenizer(answers, add_special_tokens=False)["input_ids"]])
    assert len(set(lengths.tolist())) == 3
    output = model.forward_with_history_retrieval(QUERIES, HISTORIES, answers, MASK)
    assert output.num_scored_tokens == lengths.sum()
    mean = (output.target_losses[:, 0] * lengths).sum() / lengths.sum()
    assert output.loss.item() == pytest.approx(mean.item(), rel=1e-5)
    model.config.context_window_size = 64  # an answer that is longer counts as far as something stands before it
    output = model.forward_with_history_retrieval(QUERIES[:2], HISTORIES[:2], [answers[0], answers[1] * 30], MASK[:2])
    assert output.num_scored_tokens == lengths[0] + 63


@pytest.mark.parametrize("add_bos", [False, True])
def test_score_continuations_is_the_log_likelihood(add_bos):
    """Of the texts' own tokens, whatever the tokenizer puts around them; BOS stands before them by `add_bos` alone."""
    prompts, answers = ["the copper ", "the " * 270], ["lantern", "passage that answers"]
    model = build(add_bos=add_bos)
    plain = model.tokenizer
    for model.tokenizer in (plain, with_special_tokens(), with_special_tokens("$A </s>")):
        scores = model.score_continuations(prompts, answers)
        for score, prompt, answer in zip(scores, prompts, answers, strict=True):
            ids = torch.tensor([[0] * add_bos + plain(prompt + answer)["input_ids"][-256:]])
            count = len(plain(answer)["input_ids"])
            logits = model.language_model(ids).logits[0, -count - 1 : -1]
            expected = -torch.nn.functional.cross_entropy(logits, ids[0, -count:], reduction="sum")
            assert score.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((QUERIES, HISTORIES[:2], ANSWERS), "same number"),
        (([], [], []), "at least 1"),
        ((QUERIES[:1], HISTORIES[:1], [""]), "answer 0 is empty"),
        ((QUERIES[:1], HISTORIES[:1], ANSWERS[:1], MASK[:1, :2]), "history_mask has shape"),
    ],
)
def test_bad_conversations_are_named(arguments, text):
    with pytest.raises(ValueError) as caught:
        build().forward_with_history_retrieval(*arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"query": "ab"}, "query is a str and must be a list of texts"),
        ({"answer": "ab"}, "answer is a str and must be a list of texts"),
        ({"history": ["xy"]}, r"history\[0\] is a str and must be a list of texts"),
        ({"history": "xy"}, "history is a str and must be a list of lists of turns"),
        ({"history": [[3]]}, r"history\[0\]\[0\] is a int and must be a text"),
        ({"query": [None]}, r"query\[0\] is a NoneType and must be a text"),
    ],
)
def test_a_string_is_no_list_of_texts(given, message):
    model = build(retrieval_method="recent")
    with pytest.raises(TypeError, match=message):
        model.forward_with_history_retrieval(**{"query": ["a"], "history": [["b"]], "answer": ["c"], **given})
