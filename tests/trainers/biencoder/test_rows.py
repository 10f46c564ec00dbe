import pytest

from modeling_biencoder import BiEncoderConfig
from tests.support.tiny import tiny_tokenizer
from trainers.biencoder.rows import FEATURES, biencoder_example, load_biencoder_rows, normalize_row, sample_group

SCORED = {"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [3.0], "neg_scores": [1.0, 2.0]}
FORMATS = {
    "pos_scores and neg_scores": (SCORED, (["p"], ["n", "m"], [3.0], [1.0, 2.0])),
    "neg_score": (
        {"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [3.0], "neg_score": [1.0], "task": "icl"},
        (["p"], ["n"], [3.0], [1.0]),
    ),
    "teacher_scores, positives first, win": (
        {**SCORED, "teacher_scores": [7, 8, 9], "query_id": 5, "answers": ["a"]},
        (["p"], ["n", "m"], [7.0], [8.0, 9.0]),
    ),
    "no scores": ({"query": "q", "pos": ["p"], "neg": ["n"], "pos_index": [4]}, (["p"], ["n"], None, None)),
    "no positive (lrlm): the best-scored": (
        {"query": "q", "pos": [], "neg": ["a", "b", "c"], "teacher_scores": [-3.0, -1.0, -2.0], "context": ""},
        (["b"], ["a", "c"], [-1.0], [-3.0, -2.0]),
    ),
    "chat: the turns": (
        {"query": "q", "history": ["a", "b"], "answers": ["x"], "teacher_scores": [-3.0, -4.0]},
        (["a"], ["b"], [-3.0], [-4.0]),
    ),
    "pairs": ({"query": "q", "pos": ["p"]}, (["p"], [], None, None)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name):
    row, (pos, neg, pos_scores, neg_scores) = FORMATS[name]
    expected = {"query": "q", "pos": pos, "neg": neg, "pos_scores": pos_scores, "neg_scores": neg_scores}
    assert normalize_row(row, 0) == {**expected, "task": row.get("task")}


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_all_formats_load_from_one_list(streaming):
    rows = [row for row, (_, neg, _, _) in FORMATS.values() if neg]
    loaded = list(load_biencoder_rows(rows, group_size=2, streaming=streaming))
    assert loaded == [normalize_row(row, 0) for row in rows]
    assert set(loaded[0]) == set(FEATURES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, r"Row 1 .*'query' is missing"),
        ({"query": " "}, r"Row 1 .*'query' is ' '"),
        ({"pos": None, "neg": None}, r"Row 1 .*'pos' is missing"),
        ({"pos": None, "pos_scores": None}, r"Row 1 .*'pos' is empty, and there are no 'teacher_scores'"),
        ({"neg": []}, r"Row 1 .*'neg_scores' has 2 scores for 0 texts"),
        (
            {
                "neg": [],
                "neg_scores": [],
            },
            r"Row 1 .*'neg' is empty, but train_group_size=2",
        ),
        ({"pos": [" "]}, r"Row 1 .*'pos' has a blank text at 0 \(the first is 0\); fill it in, or leave it out"),
        ({"neg": ["n", "\n"]}, r"Row 1 .*'neg' has a blank text at 1"),
        ({"pos": None, "neg": None, "history": [""], "teacher_scores": [1.0]}, r"Row 1 .*'history' has a blank text"),
        ({"neg_scores": None}, r"Row 1 .*'neg_scores' is missing"),
        ({"teacher_scores": [1.0, float("nan"), 0.0]}, r"Row 1 .*'teacher_scores' is .*must be finite"),
        ({"teacher_scores": [1.0, 1e300, 0.0]}, r"Row 1 .*'teacher_scores' is .*must be finite, in float32 too"),
        ({"teacher_scores": [1.0]}, r"Row 1 .*'teacher_scores' has 1 scores for 3 texts"),
    ],
)
def test_bad_rows_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        load_biencoder_rows([SCORED, {**SCORED, **change}], group_size=2)


def test_wrong_types_are_named():
    with pytest.raises(ValueError, match=r"Row 4 .*'pos' is 'p'; it must be a list of texts"):
        normalize_row({**SCORED, "pos": "p"}, 4)
    with pytest.raises(ValueError, match=r"Row 4 .*'pos_scores' is .*list of numbers"):
        normalize_row({**SCORED, "pos_scores": ["high"]}, 4)


def test_sampling_keeps_scores_beside_their_texts_and_is_reproducible():
    texts = {f"p{i}": 100.0 + i for i in range(3)} | {f"n{i}": float(i) for i in range(20)}
    row = {"query": "q", "pos": list(texts)[:3], "neg": list(texts)[3:], "teacher_scores": list(texts.values())}
    row = normalize_row(row, 0)
    draws = {}
    for epoch in range(4):
        for number in range(4):
            passages, scores = sample_group(row, 6, 1, epoch, number)
            assert passages[0].startswith("p") and all(text.startswith("n") for text in passages[1:])
            assert len(set(passages)) == 6 and scores == [texts[text] for text in passages]
            assert sample_group(row, 6, 1, epoch, number) == (passages, scores)
            draws[epoch, number] = tuple(passages)
    assert len(set(draws.values())) == 16
    assert sample_group(row, 6, 2, 0, 0)[0] != list(draws[0, 0])


def test_few_negatives_are_all_used_before_any_is_repeated():
    row = normalize_row({"query": "q", "pos": ["p"], "neg": ["a", "b", "c"]}, 0)
    passages, scores = sample_group(row, 6, 0, 0, 0)
    assert sorted(passages[1:4]) == ["a", "b", "c"] and len(set(passages[4:])) == 2 and scores is None


def test_prompts_stay_whole_when_texts_are_cut():
    tokenizer = tiny_tokenizer()
    prompts = {
        "default": {"query": "any: "},
        "qa": {"query": "ask: ", "query_suffix": " =>", "passage": "read: ", "passage_suffix": " <="},
    }
    config = BiEncoderConfig(prompts=prompts, max_length=20)
    row = normalize_row({"query": "long " * 50, "pos": ["passage " * 50], "neg": ["short"], "task": "qa"}, 0)
    example = biencoder_example(row, 0, 0, tokenizer, config, config, 2, 0)
    query, passage = tokenizer.decode(example["query_ids"]), tokenizer.decode(example["passage_ids"][0])
    assert query.startswith("ask: long") and query.endswith(" =>") and len(example["query_ids"]) == 20
    assert passage.startswith("read: passage") and passage.endswith(" <=") and len(example["passage_ids"][0]) == 20
    assert tokenizer.decode(example["passage_ids"][1]) == "read: short <="
    other = biencoder_example({**row, "query": "x", "task": "unknown"}, 0, 0, tokenizer, config, config, 2, 0)
    assert tokenizer.decode(other["query_ids"]) == "any: x"
