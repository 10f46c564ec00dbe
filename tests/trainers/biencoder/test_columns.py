import datasets
import pytest

from tests.support.files import write_rows
from trainers.biencoder.columns import ACCEPTED, find_layout
from trainers.biencoder.rows import load_biencoder_rows, normalize_row, normalize_rows
from trainers.data.tables import TypedTable


def loaded(row, group_size=1):
    """(query, pos, neg, scores of both) of a table of one row, and its layout."""
    rows, layout = normalize_rows(TypedTable(datasets.Dataset.from_list([row])), group_size)
    (found,) = rows
    scores = None if found["pos_scores"] is None else found["pos_scores"] + found["neg_scores"]
    return (found["query"], found["pos"], found["neg"], scores), layout


PAIRS = [
    ("anchor", "positive"), ("query", "answer"), ("query", "passage"), ("question", "answer"), ("query", "document"),
    ("query", "positive"), ("sentence1", "sentence2"), ("text1", "text2"), ("title", "abstract"),
]  # fmt: skip


@pytest.mark.parametrize("names", PAIRS)
def test_pairs_whatever_their_order_in_the_table(names):
    first, second = names
    expected = ("a", ["b"], [], None)
    table = {"id": 3, first: "a", second: "b", "task": "t"}
    found, layout = loaded(table, group_size=8)
    assert found == expected and layout.pair and not layout.scored
    if names != ("title", "abstract"):  # of unknown names the first is the query
        assert loaded({second: "b", first: "a"})[0] == expected


LAYOUTS = {
    "triplet": ({"anchor": "a", "positive": "b", "negative": "c"}, ("a", ["b"], ["c"], None)),
    "triplet of unknown names": ({"x": "a", "y": "b", "z": "c"}, ("a", ["b"], ["c"], None)),
    "negatives by number, not by place": (
        {"negative_10": "e", "negative_2": "d", "negative_1": "c", "anchor": "a", "positive": "b"},
        ("a", ["b"], ["c", "d", "e"], None),
    ),
    "lists in cells": (
        {"query": "a", "positive": ["b", "c"], "negatives": ["d", "e"]}, ("a", ["b", "c"], ["d", "e"], None)
    ),
    "missing negatives are left out": (
        {"query": "a", "positive": "b", "negative_1": None, "negative_2": "d"}, ("a", ["b"], ["d"], None)
    ),
    "evidence before answer": ({"question": "a", "context": "b", "answers": {"text": ["x"]}}, ("a", ["b"], [], None)),
    "scored pair": ({"sentence1": "a", "sentence2": "b", "score": 0.25}, ("a", ["b"], [], [0.25])),
    "labelled pair": ({"text1": "a", "text2": "b", "label": 1}, ("a", ["b"], [], [1.0])),
    "scored pair of unknown names": ({"left": "a", "right": "b", "similarity": 3}, ("a", ["b"], [], [3.0])),
    "margin": ({"query": "a", "positive": "b", "negative": "c", "label": 2.5}, ("a", ["b"], ["c"], [0.0, -2.5])),
    "margins": (
        {"query": "a", "positive": "b", "negative_1": "c", "negative_2": "d", "label": [2.5, -1.0]},
        ("a", ["b"], ["c", "d"], [0.0, -2.5, 1.0]),
    ),
    "scores of all": (
        {"query": "a", "positive": "b", "negative_1": "c", "negative_2": "d", "scores": [9.0, 2.0, 1.0]},
        ("a", ["b"], ["c", "d"], [9.0, 2.0, 1.0]),
    ),
    "listwise labels": ({"query": "a", "docs": ["b", "c", "d"], "labels": [0, 1, 0]}, ("a", ["c"], ["b", "d"], None)),
    "listwise scores": (
        {"query": "a", "passages": ["b", "c"], "scores": [0.1, 0.7]}, ("a", ["c"], ["b"], [0.7, 0.1])
    ),
    "query, pos, neg win": (
        {"query": "a", "pos": ["b"], "neg": ["c"], "positive": "x", "answer": "y"}, ("a", ["b"], ["c"], None)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    row, expected = LAYOUTS[name]
    assert loaded(row)[0] == expected


def test_only_two_texts_and_a_score_are_a_scored_pair():
    scored = {name for name, (row, _) in LAYOUTS.items() if loaded(row)[1].scored}
    assert scored == {"scored pair", "labelled pair", "scored pair of unknown names"}


def test_a_stream_that_does_not_know_its_columns_and_a_file_load_too(tmp_path):
    row = {"sentence1": "a", "sentence2": "b", "label": 0.5}
    stream = datasets.IterableDataset.from_generator(lambda: iter([row]))
    assert stream.features is None
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2,label\na,b,0.5\n")
    expected = normalize_row({"query": "a", "pos": ["b"], "teacher_scores": [0.5]}, 0)
    for source in (stream, tmp_path / "pairs.csv", [row]):
        assert list(load_biencoder_rows(source, group_size=4)) == [expected]


def test_swap_and_task():
    pair = TypedTable(datasets.Dataset.from_list([{"answer": "b", "question": "a", "task": "own"}]))
    rows, _ = normalize_rows(pair, 1, task="given", swap=True)
    assert (rows[0]["query"], rows[0]["pos"], rows[0]["task"]) == ("b", ["a"], "given")
    assert normalize_rows(pair, 1)[0][0]["task"] == "own"
    with pytest.raises(ValueError, match=r"Row 0 .*swap=True is for pairs; the row has 1 positives and 1 negatives"):
        normalize_rows(TypedTable(datasets.Dataset.from_list([LAYOUTS["triplet"][0]])), 1, swap=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "label": 1}, r"columns text \(text\), label \(number\) are none of the layouts"),
        ({"a": "a", "b": "b", "c": "c", "d": "d"}, "are none of the layouts"),
        ({"anchor": "a", "positive": " "}, "Row 0 .*'positive' is ' '"),
        (
            {"anchor": "a", "positive": "b", "negatives": ["c", ""]},
            "Row 0 .*'negatives' is .* list of non-empty texts",
        ),
        ({"query": "a", "positive": "b", "negative": "c", "label": [1.0, 2.0, 3.0]}, r"1 numbers \(margins\) or 2"),
        ({"query": "a", "docs": ["b", "c"], "labels": [1]}, "Row 0 .*'labels' is .* as long as 'docs': 2 numbers"),
        ({"query": "a", "docs": ["b", "c"], "labels": [0, 0]}, "Row 0 .*'labels' is .* 1 for one passage"),
        ({"premise": "a", "hypothesis": "b", "label": 2}, "'label' holds classes, not how alike"),
    ],
)
def test_bad_tables_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        loaded(row)


def test_classes_are_no_degrees_and_the_accepted_layouts_are_listed():
    features = datasets.Features({
        "a": datasets.Value("string"), "b": datasets.Value("string"), "label": datasets.ClassLabel(names=list("xyz")),
    })  # fmt: skip
    with pytest.raises(ValueError, match=r"'label' holds classes \['x', 'y', 'z'\]"):
        find_layout(TypedTable(datasets.Dataset.from_list([{"a": "a", "b": "b", "label": 2}], features=features)))
    with pytest.raises(ValueError) as error:
        find_layout(TypedTable(datasets.Dataset.from_list([{"n": 1}])))
    assert ACCEPTED in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"anchor": 3, "positive": "x", "negative": "y"}, "column 'anchor' holds numbers and must hold a text"),
        ({"anchor": "a", "positive": "x", "score": "0.8"}, "column 'score' holds texts and must hold a number or a"),
        (
            {"anchor": "a", "positive": "x", "negative_2": 5},
            "column 'negative_2' holds numbers and must hold a text or",
        ),
        ({"query": "a", "positive": {"t": 1}, "other": "z"}, "column 'positive' holds something else"),
        ({"premise": "a", "hypothesis": "b", "label": "neutral"}, "column 'label' holds texts and must hold a number"),
    ],
)
def test_a_named_column_of_another_kind_is_not_passed_over(row, message):
    """The columns that are left would be read as others: of these the positive as the query."""
    with pytest.raises(ValueError, match=message):
        load_biencoder_rows([row], group_size=1)


@pytest.mark.parametrize(
    ("group_size", "other"), [(2, "b.jsonl, line 1 is a query with passages"), (1, "c.jsonl, line 1 is a scored")]
)
def test_files_that_cannot_share_batches_are_named(group_size, other, tmp_path):
    rows = ({}, {"negative": "c"}, {"score": 0.5})
    for name, more in zip("abc", rows, strict=True):
        write_rows(tmp_path / f"{name}.jsonl", [{"anchor": "a", "positive": "b", **more}])
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 1 is .*{other}.* do not share batches"):
        load_biencoder_rows(tmp_path, group_size)
