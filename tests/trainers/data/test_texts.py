"""Texts with ids."""

import gzip
import json
from pathlib import Path

import datasets
import pytest

from tests.support.files import write_rows
from trainers.data.texts import IdentifiedTexts
from trainers.mining.corpus import load_corpus


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
    assert load_corpus([{"title": "T", "text": None}, {"title": "U", "text": "u"}]).texts == ["T", "U u"]
    for row in ({"title": "", "text": None}, {"title": "T", "body": "b"}):
        with pytest.raises(ValueError, match="field 'text' of the corpus is None"):
            load_corpus([row])
        with pytest.raises(ValueError, match="field 'text' is None; it must be a text"):
            texts(tmp_path, [row])


@pytest.mark.parametrize("name", ["A.CSV", "A.TSV", "A.JSONL", "A.Json.GZ", "A.PARQUET"])
def test_names_in_capitals_say_how_a_file_is_read(tmp_path: Path, name: str) -> None:
    file, row = tmp_path / name, {"id": "7", "text": "hello you"}
    if name == "A.PARQUET":
        datasets.Dataset.from_list([row]).to_parquet(file)
    elif name.startswith("A.J"):
        content = json.dumps(row).encode()
        file.write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
    else:
        cells = [*row, *row.values()]
        file.write_text("{}{tab}{}\n{}{tab}{}\n".format(*cells, tab="," if name == "A.CSV" else "\t"))
    assert [*IdentifiedTexts(str(file)).pairs(range(1))] == [("7", "hello you")]
    assert [*load_corpus(file).texts] == ["hello you"]
