import pytest

from modeling_llara import LlaraForPreTraining
from tests.tiny import tiny_backbone, tiny_tokenizer
from trainers.data_llara import llara_example, load_llara_rows
from trainers.stop_words import without_stop_words

ROW = {"input": "The library reads.", "output_summarize": "The library reads.", "output_predict": "It is the island."}


@pytest.fixture(scope="module")
def model():
    return LlaraForPreTraining.from_backbone(tiny_backbone("llama"), tiny_tokenizer())


def example(model, row, max_length=200, remove_stop_words=False):
    return llara_example(row, 0, 0, model.tokenizer, model.config, max_length, remove_stop_words)


@pytest.mark.parametrize("streaming", [False, True])
def test_formats(streaming):
    rows = [ROW, {"input": "only the passage"}, {"text": "raw text"}]
    assert list(load_llara_rows(rows, streaming=streaming)) == [
        ROW,
        {"input": "only the passage", "output_summarize": None, "output_predict": None},
        {"input": "raw text", "output_summarize": "raw text", "output_predict": None},
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"output_summarize": "x"}, "Row 1 .*'input' is missing"),
        ({"input": "  "}, "Row 1 .*'input' is '  '"),
        ({"text": " "}, "Row 1 .*'text' is ' '"),
    ],
)
def test_bad_rows_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        load_llara_rows([ROW, row])


def test_row_is_passage_and_prompts_and_targets_are_sets_of_words(model):
    tokenizer, config = model.tokenizer, model.config
    made = example(model, ROW)
    passage = tokenizer(ROW["input"], add_special_tokens=False)["input_ids"]
    prompts = config.summarize_prompt_ids + config.predict_prompt_ids
    assert made["input_ids"] == config.prefix_ids + passage + prompts
    assert made["labels"] == [-100] * len(config.prefix_ids) + passage + [-100] * len(prompts)
    assert made["output_summarize_ids"] == sorted(set(passage))
    predicted = tokenizer(ROW["output_predict"], add_special_tokens=False)["input_ids"]
    assert made["output_predict_ids"] == sorted(set(predicted))


def test_long_passage_is_cut_and_its_own_words_with_it(model):
    text = "island candle hammer lantern " * 20
    row = {"input": text, "output_summarize": text, "output_predict": None}
    overhead = len(example(model, {**row, "input": "a"})["input_ids"]) - 1
    made = example(model, row, max_length=overhead + 5)
    passage = model.tokenizer(text, add_special_tokens=False)["input_ids"][:5]
    assert len(made["input_ids"]) == overhead + 5
    assert made["output_summarize_ids"] == sorted(set(passage))
    assert made["output_predict_ids"] == []


def test_stop_words_leave_the_predict_target_only(model):
    made = example(model, {**ROW, "output_predict": "the the island"}, remove_stop_words=True)
    assert made["output_predict_ids"] == sorted(set(model.tokenizer("island")["input_ids"]))
    assert made["output_summarize_ids"] == example(model, ROW)["output_summarize_ids"]
    assert without_stop_words("THE Lantern, and (the) hammer") == "Lantern, hammer"


def test_ignored_ids_are_no_targets(model):
    made = example(model, {**ROW, "output_predict": "</s><pad>"})
    assert made["output_predict_ids"] == []
