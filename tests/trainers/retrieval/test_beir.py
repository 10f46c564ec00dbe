"""Retrieval data in BEIR's and NanoBEIR's forms, and what is wrong with it."""

import gzip
import json
import logging

import datasets
import pytest

from tests.support.beir import CORPUS, QRELS, QUERIES, write_beir
from tests.support.files import write_rows
from trainers.retrieval.beir import is_collection, is_retrieval_source, load_retrieval_data
from trainers.retrieval.sets import load_evaluators


def write_nano(folder):
    """A clone of a NanoBEIR repo: configurations as folders of parquet, judgements without a score."""
    tables = {
        "corpus": [{"_id": key, "text": text} for key, text in CORPUS.items()],
        "queries": [{"_id": key, "text": text} for key, text in QUERIES.items()],
        "qrels": [{"query-id": query, "corpus-id": key} for query, judged in QRELS.items() for key in judged],
    }
    card = "---\nconfigs:\n"
    for name, rows in tables.items():
        (folder / name).mkdir(parents=True)
        datasets.Dataset.from_list(rows).to_parquet(folder / name / "train-00000-of-00001.parquet")
        card += f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
    (folder / "README.md").write_text(card + "---\n")
    return folder


def test_beirs_own_layout(tmp_path, caplog):
    folder = write_beir(tmp_path / "scifact")
    with caplog.at_level(logging.WARNING):
        (data,) = load_retrieval_data(folder).values()
    assert (data.corpus, data.qrels) == (CORPUS, QRELS)
    assert list(data.queries) == list(QRELS) and data.left_out == 2
    assert "2 of 8 queries have no relevant passage" in caplog.text and "queries.jsonl" in caplog.text
    assert is_retrieval_source(folder) and not is_collection(folder)


def test_title_stands_before_the_text(tmp_path):
    folder = write_beir(tmp_path)
    rows = [{"_id": key, "title": "Island", "text": text} for key, text in CORPUS.items()]
    write_rows(folder / "corpus.jsonl", rows)
    (data,) = load_retrieval_data(folder).values()
    assert data.corpus["d0"] == f"Island {CORPUS['d0']}"


def test_a_clone_of_a_nanobeir_repo_and_the_repo_itself(tmp_path, monkeypatch):
    folder = write_nano(tmp_path / "user" / "NanoTest")
    cloned = load_retrieval_data(folder)["NanoTest"]
    assert cloned.corpus == CORPUS and cloned.qrels == {query: dict.fromkeys(QRELS[query], 1.0) for query in QRELS}
    # `datasets` takes a folder by the same call as a repo id.
    for name in ("get_dataset_config_names", "load_dataset"):
        original = getattr(datasets, name)

        def local(repo_id, *args, revision, _original=original):
            assert (repo_id, revision) == ("user/NanoTest", "v1")
            return _original(str(folder), *args)

        monkeypatch.setattr(datasets, name, local)
    assert load_retrieval_data("user/NanoTest", revision="v1") == {"NanoTest": cloned}


def test_a_folder_of_folders_and_splits(tmp_path):
    write_beir(tmp_path / "beir" / "one")
    two = write_beir(tmp_path / "beir" / "two")
    (tmp_path / "beir" / "other").mkdir()
    assert is_collection(tmp_path / "beir") and is_retrieval_source(tmp_path / "beir")
    assert list(load_retrieval_data(tmp_path / "beir")) == ["one", "two"]
    (two / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq7\td7\t1\n")
    assert list(load_retrieval_data(two, split="dev")["two"].queries) == ["q7"]
    assert load_retrieval_data(two)["two"].qrels == QRELS
    with pytest.raises(ValueError, match=r"qrels has no split 'train': name one of dev, test"):
        load_retrieval_data(two, split="train")
    (two / "qrels" / "test.tsv").rename(two / "qrels" / "train.tsv")
    with pytest.raises(ValueError, match=r"qrels has several splits: name one of dev, train"):
        load_retrieval_data(two)


def test_hidden_files_are_no_tables_and_loose_links_are_missed(tmp_path):
    folder = write_beir(tmp_path / "set")
    (folder / "qrels" / "._test.tsv").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    (folder / "qrels" / ".dev.tsv").write_text("an editor's")
    assert load_retrieval_data(folder)["set"].qrels == QRELS
    (folder / "corpus.jsonl").rename(folder / "corpus.tsv")
    (folder / "corpus.jsonl").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"corpus\.jsonl' is a symbolic link that leads to nothing"):
        load_retrieval_data(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", "", r"corpus.jsonl' holds no row"),
        ("corpus.jsonl", None, r"lacks corpus: put corpus.jsonl there"),
        ("qrels/test.tsv", None, r"lacks qrels"),
        ("corpus.jsonl", '{"_id": "d0"}\n', r"corpus.jsonl, line 1: .*'text' is None"),
        ("corpus.jsonl", '{"text": "x"}\n', r"corpus.jsonl, line 1: field '_id' is missing"),
        ("corpus.jsonl", "[1]\n", r"corpus.jsonl, line 1 is a list"),
        ("queries.jsonl", "{\n", r"queries.jsonl, line 1 is no JSON"),
        ("queries.jsonl", '{"_id": "q0", "text": "x"}\n' * 2, r"queries.jsonl, line 2: the id 'q0' stands twice"),
        (
            "queries.jsonl",
            '{"_id": "x", "text": "x"}\n',
            r"test.tsv judges 6 queries and none of .*queries.jsonl.* 'q0'",
        ),
        ("queries.jsonl", '{"_id": "q0", "text": null}\n', r"queries.jsonl, line 1: field 'text' is None"),
        (
            "corpus.jsonl",
            '{"_id": "x", "text": "x"}\n',
            r"None of .*passages of .*test.tsv is in .*corpus.jsonl.* 'd0'",
        ),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td0\tnan\n", r"'score' is 'nan'"),
        ("qrels/test.tsv", "q0 0 d0 1\nq0 0 1\n", r"test.tsv, line 2 has 3 cells and must have 4"),
        ("qrels/test.tsv", "q0 0 d0 1\nq0 0 d1 high\n", r"test.tsv, line 2: field 'score' is 'high'"),
        ("qrels/test.tsv", "query-id\tscore\nq0\t1\n", r"test.tsv, line 2: field 'corpus-id' is missing"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td0\thigh\n", r"'score' is 'high'"),
        ("qrels/test.tsv", "query-id\tcorpus-id\trelevance\nq0\td0\t0\n", r"no field 'score', and 'relevance' beside"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t\nq0\td1\t1\n", r"'score' is (None|'')"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t2\nq0\td0\t0\n", r"has grade 0 .*, and 2 before"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t0\n", r"no query has a relevant passage"),
    ],
)
def test_errors_name_the_file_and_what_is_wrong(tmp_path, file, content, message):
    folder = write_beir(tmp_path)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_retrieval_data(folder)


@pytest.mark.parametrize(
    "name", ["qrels/test.tsv", "qrels/test.qrels", "qrels/test.txt", "qrels.trec", "qrels.tsv.gz"]
)
@pytest.mark.parametrize("between", ["\t", " ", "  "])
def test_judgements_of_trec_are_those_of_beir(tmp_path, name, between):
    folder = write_beir(tmp_path)
    (folder / "qrels" / "test.tsv").unlink()
    graded = {query: {**judged, "d7": -1} for query, judged in QRELS.items()}
    rows = [(query, "0", key, f"{grade:g}") for query, judged in graded.items() for key, grade in judged.items()]
    content = "\n".join(between.join(row) for row in rows) + "\n\n"
    (folder / name).write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
    (data,) = load_retrieval_data(folder).values()
    assert data.qrels == graded


def test_three_columns_without_a_head(tmp_path):
    folder = write_beir(tmp_path)
    (folder / "qrels" / "test.tsv").write_text("q 0\td0\t1\nq0\td1\t2\n")
    write_rows(folder / "queries.jsonl", [{"_id": "q 0", "text": "x"}, {"_id": "q0", "text": "y"}])
    (data,) = load_retrieval_data(folder).values()
    assert data.qrels == {"q 0": {"d0": 1.0}, "q0": {"d1": 2.0}}


def test_compressed_tables_numbers_as_ids_and_passages_without_a_text(tmp_path):
    rows = [{"_id": 7, "title": "Island", "text": ""}, {"_id": 8, "title": None, "text": None}]
    packed = "".join(f"{json.dumps(row)}\n" for row in [*rows, {"_id": 9, "title": "", "text": "a candle"}])
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(packed.encode()))
    (tmp_path / "queries.csv").write_text("id,text\n007,where?\n7,who?\n")
    write_rows(tmp_path / "qrels.jsonl", [{"query-id": 7, "corpus-id": 9, "score": 1}])
    assert is_retrieval_source(tmp_path)
    (data,) = load_retrieval_data(tmp_path).values()
    assert data.corpus == {"7": "Island", "8": "", "9": "a candle"}
    assert data.queries == {"7": "who?"} and data.qrels == {"7": {"9": 1.0}}


def test_judgements_of_what_is_not_there_are_counted_once(tmp_path, caplog):
    qrels = {**QRELS, "q1": {"gone": 1.0}, "lost": {"d0": 1.0}, "q7": {"gone": 0.0, "other": -1.0}}
    write_beir(tmp_path / "arguana", qrels=qrels)
    with caplog.at_level(logging.WARNING):
        (evaluate,) = load_evaluators(tmp_path / "arguana").values()
    assert evaluate.qrels["q1"] == {"gone": 1.0} and "lost" not in evaluate.queries and "q7" not in evaluate.queries
    assert "1 relevant passages are not in" in caplog.text and "judges 1 queries that" in caplog.text
    assert len(caplog.records) == 3 and all("arguana" in record.getMessage() for record in caplog.records)


def test_sources_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no corpus, queries and qrels"):
        load_retrieval_data(tmp_path / "empty")
    with pytest.raises(ValueError, match="There is no folder"):
        load_retrieval_data(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is for a Hub id"):
        load_retrieval_data(write_beir(tmp_path), revision="main")
    assert not is_retrieval_source(tmp_path / "empty") and not is_retrieval_source([{"query": "x"}])


def test_tables_of_json_and_files_of_a_folder_that_are_none(tmp_path, caplog):
    folder = write_beir(tmp_path / "set")
    rows = [{"_id": key, "text": text} for key, text in CORPUS.items()]
    (folder / "corpus.jsonl").rename(folder / "queries.jsonl.bak")
    (folder / "corpus.json").write_text(json.dumps(rows))
    assert load_retrieval_data(folder)["set"].corpus == CORPUS
    (folder / "corpus.json").unlink()
    (folder / "corpus").mkdir()
    write_rows(folder / "corpus" / "a.jsonl", rows[:3])
    (folder / "corpus" / "b.json").write_text(json.dumps(rows[3:]))
    (folder / "corpus" / "dataset_infos.json").write_text("{}")
    (folder / "corpus" / "README.md").touch()
    caplog.clear()
    assert load_retrieval_data(folder)["set"].corpus == CORPUS and "left out, such as" not in caplog.text
    (folder / "corpus" / "c.xlsx").touch()
    load_retrieval_data(folder)
    assert "corpus: 1 files are no tables and left out, such as c.xlsx" in caplog.text


def test_a_split_is_called_as_its_file_but_for_what_says_how_it_is_read(tmp_path):
    folder = write_beir(tmp_path / "set")
    (folder / "qrels" / "test.tsv").unlink()
    for number, name in enumerate(("dl.2019.tsv", "dl.2020.tsv", "dev.qrels.txt", "dev.small-00000-of-00001.tsv")):
        (folder / "qrels" / name).write_text(f"q{number} 0 d{number} 1\n")
    for number, split in enumerate(("dl.2019", "dl.2020", "dev", "dev.small")):
        assert load_retrieval_data(folder, split)["set"].qrels == {f"q{number}": {f"d{number}": 1.0}}
    with pytest.raises(ValueError, match=r"several splits: name one of dev, dev\.small, dl\.2019, dl\.2020"):
        load_retrieval_data(folder)


def test_names_of_sets_and_of_splits_stay_apart(tmp_path):
    for name in ("a", "b"):
        folder = write_beir(tmp_path / name / "data")
        (tmp_path / "all").mkdir(exist_ok=True)
        (tmp_path / "all" / f"set-{name}").symlink_to(folder)
    assert list(load_retrieval_data(tmp_path / "all")) == ["set-a", "set-b"]
    (tmp_path / "all" / "set-b").rename(tmp_path / "all" / "mean")
    with pytest.raises(ValueError, match="is called 'mean'"):
        load_evaluators(tmp_path / "all")
    qrels = tmp_path / "a" / "data" / "qrels"
    (file,) = qrels.iterdir()
    file.rename(qrels / "dev-small.tsv")
    (qrels / "dev-large.tsv").write_bytes((qrels / "dev-small.tsv").read_bytes())
    with pytest.raises(ValueError, match="dev-large, dev-small"):
        load_retrieval_data(tmp_path / "all" / "set-a", "dev")
