import json
import os

import datasets
import pytest

from tests.support.tiny import tiny_tokenizer
from trainers.data.documents import document_table, load_documents, read_text_files
from trainers.data.plain_text import read_text
from trainers.data.sources import check_source
from trainers.llara.rows import load_llara_rows
from trainers.perplexity.data import read_texts, tokenized


def test_text_file_and_folder_and_rows(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("first\n\ndocument")
    (tmp_path / "sub" / "b.py").write_text("second = 2\n")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "binary.bin").write_bytes(b"\xff\xfe\x00\x81")
    (tmp_path / ".hidden").write_text("not this")
    assert list(load_documents(tmp_path)) == [
        {"name": "a.txt", "text": "first\n\ndocument"},
        {"name": "sub/b.py", "text": "second = 2\n"},
    ]
    assert list(load_documents(tmp_path / "a.txt", streaming=True)) == [{"name": "a.txt", "text": "first\n\ndocument"}]
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "x.jsonl").write_text(json.dumps({"text": "third"}) + "\n")
    assert list(load_documents(rows)) == list(load_documents(rows / "x.jsonl")) == [{"text": "third"}]


def test_nothing_to_read(tmp_path):
    with pytest.raises(ValueError, match="holds no text"):
        load_documents(tmp_path)
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"blank.txt' holds no text"):
        load_documents(tmp_path / "blank.txt")


ROWS = '{"text": "one two"}\n{"text": "three"}\n'


@pytest.mark.parametrize("name", ["rows", "rows.ndjson", "rows.txt", "part-00000"])
@pytest.mark.parametrize("content", [ROWS, "\ufeff\n" + ROWS, '[{"text": "one"}]', '{\n "text": "one"\n}'])
def test_rows_under_the_name_of_a_text_are_refused(tmp_path, name, content):
    file = tmp_path / "data" / name
    file.parent.mkdir()
    file.write_text(content, encoding="utf-8")
    message = r"line [12] is JSON, and a file of this name is plain text: let its name end in \.jsonl"
    for source in (file, str(file.parent)):
        with pytest.raises(ValueError, match=message):
            load_documents(source)
        with pytest.raises(ValueError, match=message):
            load_llara_rows(source, tiny_tokenizer(), 16)
    with pytest.raises(ValueError, match=message):
        check_source(file)


@pytest.mark.parametrize(
    ("name", "content"),
    [("readme.md", b"# words"), ("data.json", b"{}"), ("picture.png", b"\x89PNG\xff"), ("a.zip", b"PK\x03\x04x")],
)
def test_a_folder_of_documents_may_hold_some_json(tmp_path, name, content):
    (tmp_path / "package").write_text(ROWS)
    (tmp_path / name).write_bytes(content)
    assert ROWS in load_documents(tmp_path)["text"]


def test_a_text_may_begin_like_json(tmp_path):
    for number, text in enumerate(("[a link]\nto it", "{x} is a set", "12\n13", "null")):
        file = tmp_path / f"{number}.txt"
        file.write_text(text)
        assert load_documents(file)["text"] == [text]


@pytest.mark.parametrize("streaming", [False, True])
def test_line_ends_stay_as_they_are(tmp_path, streaming):
    """A text is what the file holds, as it is in a row of JSON."""
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\n".encode())
    text = "one\r\ntwo\rthree\n"
    (row,) = load_documents(tmp_path / "a.txt", streaming=streaming)
    (part,) = read_text_files([tmp_path / "a.txt"], streaming)
    assert row["text"] == part["text"] == read_text(tmp_path / "a.txt") == text


def test_documents_are_known_by_their_files(tmp_path):
    for name in ("b.txt", "a/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    files = [str(tmp_path / "a" / "c.txt"), str(tmp_path / "b.txt")]
    table = document_table(tmp_path)
    assert [where for where, _ in table] == [table.where(number) for number in (0, 1)] == files
    assert [where for where, _ in document_table(tmp_path, streaming=True).first(1)] == files[:1]


def test_a_parquet_file_is_no_text(tmp_path):
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"PAR1 and more \xff")
    with pytest.raises(ValueError, match="is a parquet file: give a text file"):
        read_text(file)


def test_a_text_too_short_to_be_scored_is_known_by_its_file(tmp_path):
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(ValueError, match=r"short\.txt: nothing can be scored"):
        tokenized(read_texts(str(tmp_path / "short.txt"), None), tiny_tokenizer(), None)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt"])
def test_a_file_in_the_place_of_another_is_read_anew(tmp_path, name):
    """`cp -p`, `tar` and `rsync -t` keep the time, and the size may be the same."""
    for text in ("lantern", "hammers"):
        new = tmp_path / "new"
        new.write_text(text if name == "a.txt" else json.dumps({"text": text}))
        if name == "a.parquet":
            datasets.Dataset.from_list([{"text": text}]).to_parquet(new)
        os.utime(new, (10**9, 10**9))
        new.replace(tmp_path / name)
        assert load_documents(tmp_path / name)["text"] == [text]
