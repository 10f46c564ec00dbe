"""What is read of a folder, and what is said of the rest."""

import gzip
import json

import datasets
import pytest

from tests.support.tiny import tiny_tokenizer
from trainers.data.documents import load_documents
from trainers.data.sources import check_source, load_tables
from trainers.llara.rows import load_llara_rows
from trainers.mining.corpus import load_corpus

ROW = {"text": "one two three"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The warnings about folders and documents."""
    warnings: list[str] = []
    for module in ("folders", "documents"):
        monkeypatch.setattr(f"trainers.data.{module}.logger.warning_once", warnings.append)
    return warnings


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json.gz"])
def test_a_clone_of_a_data_set_is_rows(tmp_path, said, name):
    content = "text\none two three\n" if name == "a.csv" else json.dumps(ROW)
    (tmp_path / name).write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    (tmp_path / "README.md").write_text("# a card")
    (tmp_path / "dataset_infos.json").write_text('{"default": {}}')
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / f".{name}").write_text("an editor's")
    (tmp_path / "x.jsonl").mkdir()
    assert load_documents(tmp_path).to_list() == [ROW]
    assert load_llara_rows(tmp_path, tiny_tokenizer(), 16)["input"][:] == [ROW["text"]]
    check_source(tmp_path)
    (tmp_path / "picture.png").unlink()
    assert load_corpus(tmp_path).texts == [ROW["text"]] and not said
    (tmp_path / "b.txt").write_text("two")
    assert "two" in load_documents(tmp_path)["text"][:]
    assert "holds 2 data files" in said[0] and "all are read as plain text" in said[0]


def test_compressed_texts_are_unpacked_and_what_is_no_text_is_said(tmp_path, said):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("été\r\n".encode()))
    for source in (tmp_path / "a.txt.gz", tmp_path):
        assert load_documents(source).to_list() == [{"name": "a.txt.gz", "text": "été\r\n"}]
        assert load_llara_rows(source, tiny_tokenizer(), 16)["input"][:] == ["été"]
    assert not said
    (tmp_path / "b.txt").write_bytes("été".encode("latin-1"))
    (tmp_path / "c.txt.gz").write_bytes(b"damaged")
    (tmp_path / "d.tar").write_bytes(b"name\0\0text")
    assert load_documents(tmp_path)["name"][:] == ["a.txt.gz"]
    assert said[0].startswith("3 of 4 files") and said[0].endswith("the first of them: b.txt.")


def test_what_save_to_disk_wrote_is_refused(tmp_path):
    rows = datasets.Dataset.from_list([ROW])
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path / "splits")
    for folder in (tmp_path / "one", tmp_path / "splits"):
        for read in (load_documents, load_tables, load_corpus, check_source):
            with pytest.raises(ValueError, match="written by `save_to_disk`: write the rows by `to_parquet`"):
                read(folder)


def test_data_files_of_folders_below_and_of_several_splits_are_named(tmp_path, said):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.jsonl").write_text(json.dumps(ROW))
    with pytest.raises(ValueError, match=r"holds no data files, and '\S+data' does: give that"):
        load_tables(tmp_path)
    (tmp_path / "data" / "test.jsonl").write_text(json.dumps(ROW))
    (tmp_path / "data" / "values.jsonl").write_text(json.dumps(ROW))
    assert len(load_tables(tmp_path / "data")) == 3
    assert "several splits (test.jsonl, train-00000-of-00001.jsonl)" in said[0]
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW))
    assert len(load_tables(tmp_path)) == 1 and "(data/test.jsonl ...) are not read" in said[1]


def test_a_corpus_is_read_as_its_lines_stand(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("    indented  \n\tby a tab\n")
    assert load_corpus(tmp_path).texts == ["    indented  ", "\tby a tab"]
    assert load_corpus([{"title": "T", "text": "x\n"}, {"text": " y\n"}]).texts == ["T x", " y\n"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.parquet"])
def test_what_stands_in_the_place_of_a_file_is_named(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    for read in (load_documents, load_corpus):
        with pytest.raises(ValueError, match=r"is a pointer of Git LFS .* fetch it by `git lfs pull`"):
            read(tmp_path / name)


def test_a_text_that_is_not_there_is_no_text_less(tmp_path, said):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "c.safetensors").write_text(POINTER)
    assert load_documents(tmp_path)["name"][:] == ["b.txt"] and "or pointers of Git LFS to such" in said[0]
    (tmp_path / "c.safetensors").unlink()
    (tmp_path / "a.txt").write_text(POINTER)
    for problem in ("a pointer of Git LFS", "a symbolic link that leads to nothing"):
        for read in (load_documents, load_corpus):
            with pytest.raises(ValueError, match=rf"a\.txt'? is {problem}"):
                read(tmp_path)
        (tmp_path / "a.txt").unlink()
        (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere")


def test_links_to_folders_are_followed_and_each_folder_is_read_once(tmp_path):
    for name in ("elsewhere/sub", "texts/own", "texts/.hidden"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text(name)
    texts = tmp_path / "texts"
    for name, target in {"a": "elsewhere/sub", "b": "elsewhere", "c": "texts", "d": "texts/own", "own/e": "."}.items():
        (texts / name).symlink_to(tmp_path / target)
    assert load_documents(texts)["name"][:] == ["a/a.txt", "own/a.txt"]
    assert load_corpus(texts).texts == ["elsewhere/sub", "texts/own"]


def test_a_data_file_that_is_missing_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW))
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "nowhere")
    for read in (load_tables, check_source, load_corpus, load_documents):
        with pytest.raises(ValueError, match=r"b\.jsonl' is a symbolic link that leads to nothing"):
            read(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "b.jsonl").rename(tmp_path / "old" / "b.jsonl")  # where rows are not read
    assert load_documents(tmp_path).to_list() == list(load_tables(tmp_path)[0].dataset()) == [ROW]
