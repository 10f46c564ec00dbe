"""The one output of `lookback encode`, in every form: what is written comes back, by its own library, too."""

import contextlib
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from trainers.retrieval.mapped import open_stored
from trainers.retrieval.quantization import PRECISIONS, quantize, ranges_of
from trainers.retrieval.stored import SUFFIXES, files_of, load_embeddings, load_stored
from trainers.retrieval.storing import write_embeddings

TABLE = torch.arange(20.0).view(10, 2) / 7 - 1
IDS = [f"é{number}" for number in range(10)]
TEXTS = [f"text {number}\n" for number in range(10)]


def blocks(table=TABLE, size=3):
    return lambda: iter(table.split(size))


def expected(precision):
    return quantize(TABLE, precision, ranges_of([TABLE]))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shard_size", [None, 4, 5, 20])
def test_what_is_written_comes_back(tmp_path, suffix, precision, shard_size):
    path = tmp_path / f"e{suffix}"
    texts = TEXTS if suffix == ".parquet" else None
    files = write_embeddings(path, blocks(), (10, 2), IDS, texts, precision, {"model": 'a "b" é\n'}, shard_size)
    assert files == files_of(path) and len(files) == {None: 1, 4: 3, 5: 2, 20: 1}[shard_size]
    stored = load_stored(path)
    assert torch.equal(stored.embeddings, expected(precision)) and stored.ids == IDS and stored.texts == texts
    about = {"model": 'a "b" é\n', "precision": precision, "width": "2"}
    if precision == "int8":
        about["ranges"] = json.dumps([TABLE.amin(0).tolist(), TABLE.amax(0).tolist()])
    assert stored.about == about
    assert load_embeddings(path)[1] == IDS


@pytest.mark.parametrize("precision", PRECISIONS)
def test_other_libraries_read_the_files(tmp_path, precision):
    for suffix in SUFFIXES:
        write_embeddings(tmp_path / f"e{suffix}", blocks(), (10, 2), IDS, TEXTS, precision)
    whole = expected(precision)
    content = (tmp_path / "e.safetensors").read_bytes()
    with safe_open(tmp_path / "e.safetensors", "pt") as file:
        facts = file.metadata()
    assert torch.equal(load(content)["embeddings"], whole)
    assert len(content) == len(save({"embeddings": whole}, facts))
    assert np.array_equal(np.load(tmp_path / "e.npy"), whole.numpy())
    table = pq.read_table(tmp_path / "e.parquet").to_pydict()
    assert table == {"id": IDS, "text": TEXTS, "embedding": whole.tolist()}
    with open(tmp_path / "e.ids.jsonl", encoding="utf-8") as lines:
        assert [json.loads(line) for line in lines] == IDS


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE[:9], "9 rows, and the file 10"),
        (torch.cat([TABLE, TABLE[:1]]), "11 rows, and the file 10"),
        (TABLE[:, :1], "1 numbers a row, and the file 2"),
    ],
)
@pytest.mark.parametrize("shard_size", [None, 1])
def test_blocks_that_do_not_fit_leave_the_former_files(tmp_path, suffix, table, message, shard_size):
    path = tmp_path / f"e{suffix}"
    write_embeddings(path, blocks(TABLE[:1]), (1, 2), ["former"], shard_size=shard_size)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        write_embeddings(path, blocks(table), (10, 2), IDS, shard_size=shard_size and 4)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert load_embeddings(path)[1] == ["former"]


def test_the_files_of_a_former_run_are_gone(tmp_path):
    path = tmp_path / "e.npy"
    other = tmp_path / "e-x-of-00002.npy"
    other.write_text("somebody's")
    for shard_size, count in ((3, 4), (5, 2), (None, 1), (9, 2)):
        written = write_embeddings(path, blocks(), (10, 2), IDS, shard_size=shard_size)
        assert files_of(path) == written and len(written) == count
        assert load_embeddings(path)[1] == IDS
        names = {file.with_suffix(suffix) for file in written for suffix in (".npy", ".ids.jsonl", ".about.json")}
        assert set(tmp_path.iterdir()) == {other, *names}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shard_size", [None, 5])
def test_a_kill_while_the_files_take_their_places_leaves_those_of_one_run(tmp_path, monkeypatch, suffix, shard_size):
    path, replace, places = tmp_path / f"e{suffix}", os.replace, iter(())

    def replace_or_die(new, old):
        if next(places, 1) == 0:
            raise KeyboardInterrupt
        replace(new, old)

    monkeypatch.setattr("hub_cards.whole_files.os.replace", replace_or_die)
    runs = [(TABLE, IDS, {"texts": "a"}), (-TABLE, IDS[::-1], {"texts": "b"})]
    for first in range(6):
        for table, ids, about in runs:
            with contextlib.suppress(KeyboardInterrupt):
                write_embeddings(path, blocks(table), (10, 2), ids, about=about, shard_size=shard_size)
            places = iter(range(first, -1, -1))
        places = iter(())
        with contextlib.suppress(ValueError):  # a former run's, or none
            stored = load_stored(path)
            kept = next(one for one in runs if torch.equal(one[0], stored.embeddings))
            assert stored.ids == kept[1] and kept[2].items() <= stored.about.items()


def test_shards_are_in_the_order_of_their_numbers(tmp_path):
    names = [f"e-{number}-of-100001.npy" for number in ("00009", "10000", "99999", "100000")]
    for name in names:
        (tmp_path / name).touch()
    assert [file.name for file in files_of(tmp_path / "e.npy")] == names


def test_files_of_two_runs_are_not_one_index(tmp_path):
    for name, about in (("one", "a"), ("two", "b")):
        (tmp_path / name).mkdir()
        write_embeddings(
            tmp_path / name / "e.parquet", blocks(), (10, 2), IDS, TEXTS, about={"texts": about}, shard_size=5
        )
    first = tmp_path / "one" / "e-00000-of-00002.parquet"
    first.replace(tmp_path / "two" / first.name)
    for name in ("one", "two"):
        with pytest.raises(ValueError, match=r"are \d of 2 files of one run: put the others there"):
            load_embeddings(tmp_path / name / "e.parquet")


def test_embeddings_without_their_ids_or_their_meaning_are_not_read(tmp_path):
    file = tmp_path / "e.npy"
    write_embeddings(file, blocks(), (10, 2), IDS, precision="int8")
    (tmp_path / "e.about.json").unlink()
    with pytest.raises(ValueError, match="int8 numbers of which nothing says what they are"):
        load_embeddings(file)
    write_embeddings(file, blocks(), (10, 2), IDS)
    (tmp_path / "e.ids.jsonl").write_text(json.dumps("a") + "\n")
    with pytest.raises(ValueError, match="has 1 ids for 10 embeddings"):
        load_embeddings(file)
    (tmp_path / "e.ids.jsonl").unlink()
    with pytest.raises(ValueError, match="is missing"):
        load_embeddings(file)
    with pytest.raises(ValueError, match="must end in"):
        load_embeddings(__file__)


@pytest.mark.parametrize(
    ("rows", "found"),
    [([[1.0, 2], [3.0] * 4, [5.0] * 3], "2, 4, 3"), ([[1.0, 2], None, [5.0, 6]], "2, no"), ([None, [1.0]], "no, 1")],
)
def test_rows_of_several_lengths_in_a_table_of_another_tool_are_refused(tmp_path, rows, found):
    table = pa.table({"id": list("abc")[: len(rows)], "embedding": pa.array(rows, pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "e.parquet")
    message = rf"e\.parquet' holds no embeddings .*rows of 'embedding' have {found} numbers, and all must have as many"
    with pytest.raises(ValueError, match=message):
        load_embeddings(tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=message):
        open_stored(tmp_path / "e.parquet")
    pq.write_table(table, tmp_path / "e.parquet", row_group_size=1)
    with pytest.raises(ValueError, match="rows of 'embedding' have"):
        list(open_stored(tmp_path / "e.parquet").embeddings.split(2))


def test_numbers_that_the_file_does_not_hold_are_refused(tmp_path):
    for table, precision in ((TABLE * 1e6, "float16"), (TABLE / 0, "float32"), (TABLE / 0, "int8")):
        with pytest.raises(ValueError, match=f"which {precision} does not hold"):
            write_embeddings(tmp_path / "e.parquet", blocks(table), (10, 2), IDS, precision=precision)
    with pytest.raises(ValueError, match="precision='int4'"):
        write_embeddings(tmp_path / "e.parquet", blocks(), (10, 2), IDS, precision="int4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".npy"])
def test_ids_of_another_run_are_not_those_of_the_numbers(tmp_path, suffix):
    file, other = tmp_path / f"e{suffix}", tmp_path / f"other{suffix}"
    write_embeddings(file, blocks(), (10, 2), IDS)
    write_embeddings(other, blocks(), (10, 2), IDS[::-1])
    (tmp_path / "other.ids.jsonl").replace(tmp_path / "e.ids.jsonl")
    for read in (load_stored, lambda path: list(open_stored(path).ids)):
        with pytest.raises(ValueError, match="holds other ids than were written with"):
            read(file)
