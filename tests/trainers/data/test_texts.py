"""Texts with ids."""

from pathlib import Path

import pytest

from tests.support.files import write_rows
from trainers.data.texts import IdentifiedTexts


def texts(folder: Path, rows: list[dict], **settings) -> IdentifiedTexts:
    return IdentifiedTexts(write_rows(folder / "rows.jsonl", rows), **settings)


def test_an_id_that_stands_twice_is_named_with_both_rows(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "a"}, {"text": "b"}, {"id": "c", "text": "c"}]
    with pytest.raises(ValueError, match=r"line 2: the id '1' is that of .*line 1, too"):
        texts(tmp_path, rows, unique=True)
    assert list(texts(tmp_path, rows).ids()) == ["1", "1", "c"]
    assert list(texts(tmp_path, rows[1:], unique=True, first=5).ids()) == ["5", "c"]


def test_a_title_alone_is_a_text_where_the_field_is_empty(tmp_path: Path) -> None:
    assert list(texts(tmp_path, [{"title": "T", "text": None}, {"title": "U", "text": "u"}])) == ["T", "U u"]
    for row in ({"title": "", "text": None}, {"title": "T", "body": "b"}):
        with pytest.raises(ValueError, match="field 'text' is None; it must be a text"):
            texts(tmp_path, [row])
