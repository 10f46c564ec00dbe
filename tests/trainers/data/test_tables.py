"""What a table guesses of a block or a column changes no text and refuses no row, at any size of the file."""

import csv
import json

import datasets
import pytest

from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import arguments
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
    load_biencoder_rows,
    load_documents,
)
from trainers.data.faithful import load_faithful_rows

PADDING = "x" * 2000  # 6,000 rows are more than the 10 MiB after which a reader of tables guesses anew


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(number, **fields):
    return {"query": f"q{number}", "pos": [f"p{number} {PADDING}"], "neg": [f"n{number}"], **fields}


@pytest.mark.cases(1)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_number_among_the_texts_of_a_large_file_is_named(tmp_path, streaming):
    rows = [row(number, **({"pos": ["p", 4]} if number == 5500 else {})) for number in range(6000)]
    with pytest.raises(
        ValueError, match=r"rows\.jsonl, line 5501: field 'pos' is \['p', 4\]; it must be a list of texts"
    ):
        list(load_biencoder_rows(write(tmp_path / "rows.jsonl", rows), 2, streaming=streaming))


LATE = {
    "no negatives in the first block": ({"neg": []}, {}),
    "no scores in the first block": ({"teacher_scores": None}, {"teacher_scores": [1, 0.5]}),
    "whole numbers before fractions": ({"teacher_scores": [1, 0]}, {"teacher_scores": [0.5, 0.25]}),
    "a column that comes late": ({}, {"teacher_scores": [0.5, 0.25], "meta": {"a": 1}}),
    "ids of two kinds": ({"id": 7}, {"id": "x7"}),
}


@pytest.mark.cases(2)
@pytest.mark.parametrize("kind", LATE)
def test_what_changes_behind_the_first_block_is_no_error(tmp_path, kind):
    before, after = LATE[kind]
    rows = [row(number, **(before if number < 5800 else after)) for number in range(6000)]
    loaded = load_biencoder_rows(write(tmp_path / "rows.jsonl", rows), 1)
    assert loaded["query"][:] == [f"q{number}" for number in range(6000)]
    for number in (0, 5799, 5800, 5999):
        assert loaded[number]["pos"] == rows[number]["pos"] and loaded[number]["neg"] == rows[number]["neg"]
        scores = rows[number].get("teacher_scores")
        assert loaded[number]["pos_scores"] == (None if scores is None else scores[:1])


TEXTS = ["007", "NA", "1e5", "2024-01-01", "true", "null", "3.0", "a, b", "1"]


def write_table(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def test_a_cell_is_the_text_that_stands_there(tmp_path):
    pairs = [{"query": text, "passage": text[::-1], "score": "0.5"} for text in TEXTS]
    loaded = load_biencoder_rows(write_table(tmp_path / "pairs.csv", pairs), 1)
    assert [row["query"] for row in loaded] == TEXTS and loaded[0]["pos_scores"] == [0.5]
    documents = load_documents(write_table(tmp_path / "documents.csv", [{"text": text} for text in TEXTS]))
    assert documents["text"][:] == TEXTS
    mined = load_faithful_rows(str(tmp_path / "pairs.csv"))
    assert [row["query"] for row in mined] == TEXTS
    pairs[4]["score"] = "high"
    write_table(tmp_path / "pairs.csv", pairs)
    with pytest.raises(ValueError, match=r"pairs\.csv, line 6: field 'score' is 'high'; it must be a number"):
        load_biencoder_rows(tmp_path / "pairs.csv", 1)


def trained_on(kind, path, folder):
    settings = {
        "bi": BiEncoderTrainingArguments,
        "llara": LlaraTrainingArguments,
        "lm": SelfRetrievalTrainingArguments,
    }
    trainers = {"bi": BiEncoderTrainer, "llara": LlaraTrainer, "lm": SelfRetrievalTrainer}
    own = {"bi": {"train_group_size": 1}, "llara": {}, "lm": {"document_length": 24, "target_size": 8}}[kind]
    args = arguments(settings[kind], folder, **own)
    model: dict = {"model_kwargs": {"context_window_size": 64, "chunk_size": 8}} if kind == "lm" else {}
    return trainers[kind](tiny_backbone(), args, path, processing_class=tiny_tokenizer(), **model)


@pytest.mark.parametrize(
    ("kind", "bad", "message"),
    [
        ("bi", {"query": 7, "pos": ["a"]}, "line 3: field 'query' is 7"),
        ("llara", {"input": 7}, "line 3: field 'input' is 7"),
        ("llara", {"input": "a", "output_predict": ["b"]}, r"line 3: field 'output_predict' is \['b'\]"),
        ("lm", {"text": 7}, "line 3: field 'text' is 7"),
        ("lm", {"history": ["a"], "query": "b", "answers": [3]}, "line 3: field 'answers' is 3"),
    ],
)
def test_a_trainer_names_the_file_and_the_line(tmp_path, kind, bad, message):
    good = {
        "query": "a", "pos": ["b"], "input": "a b", "output_predict": None, "text": "one two three four five",
        "answers": ["one two"], **({"history": ["a"]} if "history" in bad else {}),
    }  # fmt: skip
    path = write(tmp_path / "rows.jsonl", [good, good, {**good, **bad}])
    with pytest.raises(ValueError, match=rf"rows\.jsonl, {message}"):
        trained_on(kind, path, tmp_path)


def test_what_was_made_of_a_file_is_made_once_and_anew_when_the_file_changes(tmp_path):
    path = write(tmp_path / "rows.jsonl", [row(number) for number in range(9)])
    first, second = load_biencoder_rows(path, 1), load_biencoder_rows(path, 1)
    assert first.cache_files and first.cache_files == second.cache_files
    write(path, [row(number, query="other") for number in range(9)])
    assert load_biencoder_rows(path, 1)["query"][:] == ["other"] * 9


def test_documents_keep_their_other_columns(tmp_path):
    rows = [
        {"text": "a", "id": 1, "score": 1, "tags": ["x"], "mixed": 3, "deep": {"b": [1]}, "none": None},
        {"text": "b", "id": 2, "score": 0.5, "tags": [], "mixed": "3", "late": True},
    ]
    loaded = list(load_documents(write(tmp_path / "rows.jsonl", rows)))
    assert loaded == [
        {
            "text": "a",
            "id": 1,
            "score": 1.0,
            "tags": ["x"],
            "mixed": "3",
            "deep": '{"b": [1]}',
            "none": None,
            "late": None,
        },
        {"text": "b", "id": 2, "score": 0.5, "tags": [], "mixed": "3", "deep": None, "none": None, "late": True},
    ]


def test_a_row_of_parquet_is_named(tmp_path):
    good = {"query": "a", "pos": ["b"], "neg": ["c"]}
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([good, {**good, "query": " "}]).to_parquet(path)
    with pytest.raises(ValueError, match=r"rows\.parquet, row 2: field 'query' is ' '"):
        load_biencoder_rows(path, 2)


def test_a_stream_of_a_file_goes_on_from_its_state(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"query": f"q{number}", "pos": ["p"]} for number in range(9)])
    rows = load_biencoder_rows(path, 1, streaming=True)
    iterator = iter(rows)
    first = [next(iterator)["query"] for _ in range(4)]
    state = rows.state_dict()
    again = load_biencoder_rows(path, 1, streaming=True)
    again.load_state_dict(state)
    assert first + [row["query"] for row in again] == [f"q{number}" for number in range(9)]
