"""Rows written by columns are those that `datasets` writes one by one, in parts that memory holds."""

import datasets
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import drawn
from trainers.data import tables, written
from trainers.data.written import as_table, generated, parts

TEXT, NUMBER, COUNT = datasets.Value("string"), datasets.Value("float64"), datasets.Value("int64")
FEATURES = datasets.Features(
    {
        "text": TEXT,
        "texts": datasets.List(TEXT),
        "scores": datasets.List(NUMBER),
        "count": COUNT,
        "ids": datasets.List(COUNT),
        "nested": {"flag": datasets.Value("bool"), "texts": datasets.List(TEXT)},
    }
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
whole = st.integers(-(2**60), 2**60)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | words,
            "texts": st.none() | st.lists(words, max_size=3),
            "scores": st.none() | st.lists(st.floats(allow_nan=False) | st.integers(-9, 9), max_size=3),
            "count": st.none() | whole,
            "ids": st.none() | st.lists(whole, max_size=3),
            "nested": st.fixed_dictionaries({"flag": st.booleans(), "texts": st.lists(words, max_size=2)}),
        }
    ),
    min_size=1,
    max_size=5,
)


@drawn
@given(rows)
def test_the_rows_are_those_of_datasets_own_writer(given_rows):
    theirs = datasets.Dataset.from_list([FEATURES.encode_example(row) for row in given_rows], FEATURES)
    assert as_table(given_rows, FEATURES).to_pylist() == theirs.to_list()


def test_what_is_not_of_its_type_is_converted_as_datasets_converts_it():
    features = datasets.Features({"count": COUNT, "scores": datasets.List(NUMBER)})
    row = {"count": "5", "scores": ["0.5", 1]}
    assert as_table([row], features).to_pylist() == [{"count": 5, "scores": [0.5, 1.0]}]
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        as_table([{"count": "five", "scores": []}], features)


def test_parts_hold_so_many_rows_and_so_many_characters(monkeypatch):
    monkeypatch.setattr(written, "_ROWS", 3)
    monkeypatch.setattr(written, "_CHARS", 10)
    given_rows = [{"text": "a" * size, "n": 1} for size in (1, 1, 1, 1, 30, 2, 9, 1)]
    assert [[len(row["text"]) for row in part] for part in parts(iter(given_rows))] == [
        [1, 1, 1],
        [1, 30],
        [2, 9],
        [1],
    ]


def some(count: int, broken: int | None = None):
    for number in range(count):
        if number == broken:
            raise ValueError(f"row {number} is broken")
        yield {"number": number}


def test_a_data_set_is_whole_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    features = datasets.Features({"number": COUNT})
    with pytest.raises(ValueError, match="row 1500 is broken"):
        generated(some, features, {"count": 2500, "broken": 1500}, False)
    made = generated(some, features, {"count": 2500}, False)
    assert made["number"][:] == list(range(2500)) and made.features == features
    assert list(generated(some, features, {"count": 2}, True)) == [{"number": 0}, {"number": 1}]
    again = generated(some, features, {"count": 2500}, False)
    assert again.cache_files == made.cache_files and str(tmp_path) in made.cache_files[0]["filename"]


MADE: list[str] = []


def noted(rows=(), number=None):
    """A generator of rows, and what becomes of a row."""
    MADE.append("row")
    return {"number": 1} if number is not None else iter([{"number": 1}])


def test_rows_in_the_cache_are_made_anew_by_other_code(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    features = datasets.Features({"number": COUNT})
    datasets.Dataset.from_dict({"number": [0]}).to_parquet(tmp_path / "rows.parquet")
    stored = datasets.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train")
    for code, made in (("a", 1), ("a", 1), ("b", 2)):
        for module in (tables, written):
            monkeypatch.setattr(module, "code_digest", lambda code=code: code)
        assert generated(noted, features, {}, False)["number"][:] == [1]
        assert len(MADE) == made
    MADE.clear()
    for code, made in (("a", 1), ("a", 1), ("b", 2)):
        monkeypatch.setattr(tables, "code_digest", lambda code=code: code)
        assert tables.TypedTable(stored).map(noted, features)["number"][:] == [1]
        assert len(MADE) == made
    MADE.clear()


def test_the_code_is_all_of_the_packages(tmp_path, monkeypatch):
    file = tmp_path / "trainers" / "data" / "written.py"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(written, "__file__", str(file))
    digests = set()
    for name in ("trainers/data/written.py", "trainers/llara/rows.py", "modeling_llara/rows.py", "other/rows.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("A = 1\n")
        digests.add(written.code_digest.__wrapped__())
    assert len(digests) == 3
