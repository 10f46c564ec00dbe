import json

import pytest

from trainers.data.documents import load_documents


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
