import json

import datasets
import pytest

from trainers.data.sources import check_source, load_tables
from trainers.data.transforms import StreamedRows, TransformedRows, transform_rows

ROWS = [{"text": "one"}, {"text": "two"}, {"text": "three"}]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def numbered(row, number, epoch):
    return {"text": row["text"], "number": number, "epoch": epoch}


@pytest.mark.parametrize("streaming", [False, True])
def test_every_source_gives_the_rows(tmp_path, streaming):
    file = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    for source in (file, str(file), tmp_path, ROWS):
        (table,) = load_tables(source, streaming=streaming)
        rows = table.dataset()
        assert isinstance(rows, datasets.IterableDataset if streaming else datasets.Dataset)
        assert list(rows) == ROWS
    dataset = datasets.Dataset.from_list(ROWS)
    assert load_tables(dataset)[0].dataset() is dataset


def test_a_folder_gives_a_data_set_for_each_file(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", ROWS[:1])
    write_jsonl(tmp_path / "a.jsonl", ROWS[1:])
    (tmp_path / "notes.md").write_text("not data")
    assert [list(table.dataset()) for table in load_tables(tmp_path)] == [ROWS[1:], ROWS[:1]]


def test_bad_sources(tmp_path):
    for source, message in [
        (tmp_path / "missing.jsonl", "no file or folder"),
        (tmp_path, "holds no data files"),
        ([], "list of rows is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_tables(source)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="holds no row"):
        load_tables(tmp_path / "empty.jsonl")
    (tmp_path / "rows.xml").write_text("<a/>")
    with pytest.raises(ValueError, match=r"must end in \.jsonl"):
        load_tables(tmp_path / "rows.xml")
    (tmp_path / "rows.parquet.gz").touch()
    for read in (load_tables, check_source):
        with pytest.raises(
            ValueError, match=r"rows\.parquet\.gz' is a parquet file that is packed once more: unpack it"
        ):
            read(tmp_path / "rows.parquet.gz")
    with pytest.raises(TypeError, match=r"\['test', 'train'\]"):
        load_tables(
            datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS)})
        )
    with pytest.raises(ValueError, match="data set is empty"):
        TransformedRows(datasets.Dataset.from_list(ROWS).select([]), numbered)


def test_a_path_that_datasets_takes_for_another_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "a" / "rows.parquet")
    (tmp_path / "a").rename(tmp_path / "a::b")
    with pytest.raises(ValueError, match=r"has '::' in its path, .* link to it from elsewhere"):
        load_tables(tmp_path / "a::b")
    (tmp_path / "linked").symlink_to(tmp_path / "a::b")
    assert load_tables(tmp_path / "linked")[0].dataset().to_list() == ROWS


def test_transform_knows_row_number_and_epoch():
    mapped = transform_rows(datasets.Dataset.from_list(ROWS), numbered)
    streamed = transform_rows(datasets.Dataset.from_list(ROWS).to_iterable_dataset(), numbered)
    assert isinstance(mapped, TransformedRows) and isinstance(streamed, StreamedRows)
    for epoch in (0, 3):
        expected = [{**row, "number": number, "epoch": epoch} for number, row in enumerate(ROWS)]
        mapped.set_epoch(epoch)
        streamed.set_epoch(epoch)
        assert [mapped[i] for i in range(len(mapped))] == expected
        assert list(streamed) == expected
