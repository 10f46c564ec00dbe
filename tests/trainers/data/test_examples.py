"""The collators called by hand: an example that is none is named, with its field; nothing is cut, guessed or moved."""

from typing import Any

import pytest
import torch

from trainers import BiEncoderCollator, LlaraCollator, SelfRetrievalCollator, collate_dialogues

GOOD: dict[str, dict[str, Any]] = {
    "biencoder": {"query_ids": [5], "passage_ids": [[6, 7], [8]], "teacher_scores": [0.5, 1.0]},
    "llara": {"input_ids": [4, 5], "labels": [4, 5], "output_summarize_ids": [4], "output_predict_ids": []},
    "srlm": {"input_ids": [4, 5], "labels": [4, 5]},
    "chat": {"query": "Who?", "history": ["a"], "answer": "Me.", "answer_length": 2},
}
COLLATORS: dict[str, Any] = {
    "biencoder": BiEncoderCollator(0, "left"),
    "llara": LlaraCollator(0, "right"),
    "srlm": SelfRetrievalCollator(0),
    "chat": SelfRetrievalCollator(0),
}
FIELDS = [(kind, field) for kind, example in GOOD.items() for field in example]
OF_NO_KIND = [5, 2.5, "xy", [1.5], [True], {"a": 1}, object(), [[1.0]], b"x", [object()]]


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_field_of_another_kind_is_named(kind, field):
    passed = []
    for value in OF_NO_KIND:
        if (value == "xy" and field in ("query", "answer")) or (value == 5 and field == "answer_length"):
            continue
        try:
            found = COLLATORS[kind]([GOOD[kind], {**GOOD[kind], field: value}])
        except (TypeError, ValueError) as error:
            if field not in str(error):
                passed.append(f"{value!r}: {error}")
        else:
            passed.append(f"{value!r}: {found}")
    assert passed == []


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("examples", [None, 5, "ab", [], {}, [3], [{}], ["ab"], [None]])
def test_examples_that_are_none(kind, examples):
    with pytest.raises((TypeError, ValueError), match=r"xample|batch is empty"):
        COLLATORS[kind](examples)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("biencoder", {"passage_ids": [[6]]}, "passage_ids of example 1 has 1 passages, and of the first 2"),
        ("biencoder", {"teacher_scores": [1.0]}, "Example 1 has 1 teacher_scores for 2 passages"),
        ("biencoder", {"query_ids": []}, "query_ids of example 1 has no tokens"),
        ("llara", {"labels": [4]}, "Example 1 has 1 labels for 2 input_ids"),
        ("srlm", {"labels": [4, 5, 6]}, "Example 1 has 3 labels for 2 input_ids"),
        ("chat", {"answer_length": 0}, "answer_length of example 1=0 must be at least 1"),
    ],
)
def test_lengths_that_do_not_fit(kind, change, message):
    with pytest.raises(ValueError, match=message):
        COLLATORS[kind]([GOOD[kind], {**GOOD[kind], **change}])


@pytest.mark.parametrize("collator", [BiEncoderCollator, LlaraCollator])
@pytest.mark.parametrize(
    "settings", [(-1, "left"), ("0", "left"), (None, "left"), (2**40, "left"), (0, "lef"), (0, None)]
)
def test_settings_of_a_collator(collator, settings):
    with pytest.raises((TypeError, ValueError), match=r"pad_token_id|padding_side"):
        collator(*settings)


def test_rows_may_be_tensors():
    found = SelfRetrievalCollator(0)([{"input_ids": torch.tensor([4, 5]), "labels": torch.tensor([-100, 5])}])
    assert found["input_ids"].tolist() == [[4, 5]]
    assert found["labels"].tolist() == [[-100, 5]]


def test_a_chat_among_documents_is_named():
    with pytest.raises(ValueError, match="Example 1 has no 'query'"):
        SelfRetrievalCollator(0)([GOOD["chat"], GOOD["srlm"]])
    with pytest.raises(ValueError, match="Example 0 has no 'query'"):
        collate_dialogues([GOOD["srlm"]])
