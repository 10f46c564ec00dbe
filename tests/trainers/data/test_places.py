"""Where a wrong row stands is known in folders of several files; marks and surrogates are dealt with on the way in."""

import codecs
import json

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from trainers.biencoder.entries import mixture_entries
from trainers.data.documents import document_table, plain_files, read_text_files
from trainers.data.faithful import faithful_rows, load_faithful_rows
from trainers.data.plain_text import read_text, read_yaml
from trainers.data.readers import without_surrogates
from trainers.data.sources import check_source, load_tables
from trainers.data.texts import IdentifiedTexts
from trainers.llara.stop_words import load_stop_words
from trainers.mining.corpus import load_corpus


def write_parquet(path, *rows):
    datasets.Dataset.from_list(list(rows)).to_parquet(path)


def test_rows_of_a_folder_of_parquet_know_their_file(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"text": "one"})
    write_parquet(tmp_path / "b.parquet", {"text": "two"}, {"text": None})
    assert load_faithful_rows(tmp_path).where(2) == f"{tmp_path / 'b.parquet'}, row 2"
    with pytest.raises(ValueError, match=r"b\.parquet, row 2: field 'text' is None"):
        IdentifiedTexts(str(tmp_path))
    with pytest.raises(ValueError, match=r"b\.parquet, row 2: field 'text' of the corpus is None"):
        load_corpus(tmp_path)
    assert [where.rpartition("/")[2] for where, _ in document_table(tmp_path)][1:] == [
        "b.parquet, row 1",
        "b.parquet, row 2",
    ]


def test_rows_of_a_folder_of_both_know_their_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    write_parquet(tmp_path / "b.parquet", {"text": "three"})
    rows = load_faithful_rows(tmp_path)
    assert [row["text"] for row in rows] == ["one", "two", "three"]
    assert [rows.where(number).rpartition("/")[2] for number in range(3)] == [
        "a.jsonl, line 1",
        "a.jsonl, line 3",
        "b.parquet, row 1",
    ]


def test_files_of_other_columns_are_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"text": "one"})
    write_parquet(tmp_path / "b.parquet", {"text": 2})
    with pytest.raises(ValueError, match=r"b\.parquet and .*a\.parquet do not make one data set"):
        load_faithful_rows(tmp_path)


def test_files_of_one_kind_and_several_types_are_joined(tmp_path):
    numbers = {"int32": [1], "int64": [1 << 40], "float64": [0.5]}
    for kind, values in numbers.items():
        texts = pa.array(["a"], pa.string() if kind == "int64" else pa.large_string())
        parquet.write_table(pa.table({"text": texts, "number": pa.array(values, kind)}), tmp_path / f"{kind}.parquet")
    rows = load_faithful_rows(tmp_path)
    assert sorted(row["number"] for row in rows) == [0.5, 1, 1 << 40] and {row["text"] for row in rows} == {"a"}
    assert rows.where(2) == f"{tmp_path / 'int64.parquet'}, row 1"
    write_parquet(tmp_path / "other.parquet", {"text": 2})
    with pytest.raises(ValueError, match=r"other\.parquet and .*float64\.parquet do not make one data set"):
        load_faithful_rows(tmp_path)


def test_a_parquet_file_without_rows_is_named(tmp_path):
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet' does not load \(it holds no row and needs one or more\)"):
        load_faithful_rows(tmp_path)


@pytest.mark.parametrize("name", ["a[1].parquet", "a*.parquet"])
def test_the_name_of_a_file_is_no_pattern(tmp_path, name):
    write_parquet(tmp_path / "a1.parquet", {"text": "other"})
    write_parquet(tmp_path / name, {"text": "this"})
    assert list(load_faithful_rows(tmp_path / name)) == [{"text": "this"}]


def test_a_byte_order_mark_is_skipped(tmp_path):
    file = tmp_path / "words.yaml"
    file.write_bytes(codecs.BOM_UTF8 + b"lantern: 1\n")
    assert read_yaml(file) == {"lantern": 1}
    assert load_stop_words([str(file)]) == {"lantern:", "1"}
    file.write_bytes(codecs.BOM_UTF8 + json.dumps([{"data": "user/name", "name": "x"}]).encode())
    assert [entry.name for entry in mixture_entries(str(file))] == ["x"]


def test_settings_that_are_no_yaml_are_named(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("a: 1\nb: [1\n")
    with pytest.raises(ValueError, match=r"c\.yaml, line 3 is no YAML \(.*\): mend it"):
        read_yaml(file)
    file.write_text("[" * 1_000)
    with pytest.raises(ValueError, match=r"c\.yaml.* (is nested too deep|is no YAML)"):
        read_yaml(file)


def test_a_lone_surrogate_is_a_replacement_character(tmp_path):
    row = {"\ud800": ["a\udfff", {"b": "\ud83d\ude00 \ud800"}]}
    clean = {"\ufffd": ["a\ufffd", {"b": "\U0001f600 \ufffd"}]}
    assert without_surrogates(row) == clean
    assert faithful_rows([row]) == [clean]
    assert [found for _, found in load_tables([row])[0]] == [clean]
    assert load_corpus(["a\ud800"]).texts == ["a\ufffd"]
    file = tmp_path / "c.yaml"
    file.write_text('name: "\\ud800"\n')
    assert read_yaml(file) == {"name": "\ufffd"}


def test_text_that_is_not_utf8_is_named(tmp_path):
    good, bad = tmp_path / "a.txt", tmp_path / "b.txt"
    good.write_text("one\n")
    bad.write_bytes(b"two\n\xe9\n")
    assert plain_files(tmp_path) == [good]
    for read in (lambda: read_text_files([bad], streaming=True), lambda: document_table(bad), lambda: read_text(bad)):
        with pytest.raises(ValueError, match=r"b\.txt, line 2 is not UTF-8 \(byte 0xe9\)"):
            read()


@pytest.mark.parametrize("content", ["one\n".encode("utf-16-le"), b"name.txt\0\0\0one\n"])
def test_what_no_text_begins_with_is_named(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    for read in (load_corpus, document_table, check_source):
        with pytest.raises(ValueError, match=r"a, line 1 holds a NUL, so it is no text in UTF-8"):
            read(tmp_path / "a")


@pytest.mark.parametrize("streaming", [True, False])
def test_a_text_that_is_not_utf8_from_some_place_on_is_no_half_document(tmp_path, monkeypatch, streaming):
    monkeypatch.setattr("trainers.data.documents.PART_SIZE", 10_000)
    good, bad = tmp_path / "a.txt", tmp_path / "b.txt"
    good.write_text("one\n")
    bad.write_bytes(b"two words\n" * 10_000 + b"\xe9\n")
    with pytest.raises(ValueError, match=r"b\.txt, line 10001 is not UTF-8"):
        list(read_text_files([good, bad], streaming))
