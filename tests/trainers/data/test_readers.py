"""Rows of files as they stand there, whatever the size of the file, the order of its rows and its compression."""

import csv
import gzip
import json
import random
import string
import tracemalloc
from pathlib import Path

import fsspec
import pytest
import zstandard

from trainers.data import readers
from trainers.data.plain_text import read_lines, read_text
from trainers.data.readers import read_rows
from trainers.data.unpacking import COMPRESSIONS

ROWS = [
    {"query": "007", "pos": ["2024-01-01", "NA"], "neg": []},
    {"query": "1e5", "pos": ["null"], "neg": ["true"], "teacher_scores": None},
    {"query": "é\u2028\x0b ü😀", "pos": [" a "], "neg": [], "late": {"any": [1, "b", None]}, "id": 3},
    {"query": "q", "pos": ["p"], "teacher_scores": [1, 0.5], "id": "x"},
]


def rows_of(path: Path, **settings) -> list[dict]:
    return [row for _, row in read_rows(path, **settings)]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_of_json_are_what_stands_there(tmp_path, ends, mark):
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path = write(tmp_path / "rows.jsonl", mark + ends.join(lines))
    assert rows_of(path) == ROWS
    assert [where for where, _ in read_rows(path)][1] == f"{path}, line {3 if ends == chr(10) * 2 else 2}"


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", ["list", "objects", "lines"])
def test_json_files_in_blocks_of_any_size(tmp_path, monkeypatch, block, indent, form):
    monkeypatch.setattr(readers, "_BLOCK", block)
    text = json.dumps(ROWS, indent=indent) if form == "list" else "\n".join(json.dumps(r, indent=indent) for r in ROWS)
    assert rows_of(write(tmp_path / "rows.json", f"\n {text}\n")) == ROWS
    assert rows_of(write(tmp_path / "none.json", "[]" if form == "list" else " ")) == []


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_cells_of_a_table_are_texts(tmp_path, suffix):
    cells = [["007", "NA", "1.50", "2024-01-01"], ["1e5", "null", "2", "True"], ["a,b", "", "x", "nan"]]
    path = tmp_path / f"table{suffix}"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",").writerows([["a", "b", "score", "d"], *cells])
    texts = [[cell or None for cell in row] for row in cells]
    assert rows_of(path) == [dict(zip(("a", "b", "score", "d"), row, strict=True)) for row in texts]
    assert [row["score"] for row in rows_of(path, numbers=("score",))] == [1.5, 2, "x"]
    assert rows_of(path, numbers=("score",))[0]["a"] == "007"


def test_compressed_files_load_as_plain_ones(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert rows_of(tmp_path / "rows.jsonl.gz") == ROWS
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz cannot be unpacked"):
        rows_of(tmp_path / "cut.jsonl.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl, line 2 is no JSON \(Expecting value"),
        ("a.jsonl", b'{"a": 1}\n\n[1]\n', r"a\.jsonl, line 3 is a list and must be an object"),
        ("a.jsonl", b'{"a": "\xe9"}\n', r"a\.jsonl, line 1 is not UTF-8 \(byte 0xe9\): save the file as UTF-8"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), r"a\.jsonl is UTF-16: save it as UTF-8"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), r"a\.jsonl is compressed by gzip: add \.gz"),
        ("a.jsonl", b'{"a":' + b"[" * 200_000, r"a\.jsonl, line 1 is nested too deep"),
        ("a.json", b'[{"a": 1}, {"a": 2}', r"a\.json, row 3 is no JSON"),
        ("a.json", b'[{"a": 1}, {"a": 2}] {', r"a\.json, row 3 is no JSON"),
        ("a.json", b'[{"a": 1}, 3]', r"a\.json, row 2 is a int and must be an object"),
        ("a.json", b'[{"a": 1}, {"b" 2}]', r"a\.json, row 2 is no JSON"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv, line 3 has more cells \(3\) than the 2 columns"),
        ("a.csv", b"a,b\n1,2\n1\n", r"a\.csv, line 3 has fewer cells \(1\) than the 2 columns"),
        ("a.csv", b'a,b\n1,x\n2,"y\n3,z\n4,w\n', r"a\.csv, line 3 is no row of a table \(unexpected end"),
        ("a.csv", b'a,b\n1,"hel"lo\n', r"a\.csv, line 2 is no row of a table"),
        ("a.tsv", b"a\tb\ta\n1\t2\t3\n", r"a\.tsv, line 1: the column 'a' stands twice"),
        ("a.csv.gz", b"a,b\n1,2\n", r"a\.csv\.gz cannot be unpacked"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path / name)


def test_blank_lines_of_a_table_are_no_rows(tmp_path):
    text = '\r\n"a","b"\r\n\r\n1,"two\nlines"\r\n  \r\n3,\r\n\r\n'
    assert rows_of(write(tmp_path / "a.csv", text)) == [{"a": "1", "b": "two\nlines"}, {"a": "3", "b": None}]
    assert rows_of(write(tmp_path / "one.csv", "a\nx\n\n  \n")) == [{"a": "x"}, {"a": "  "}]


@pytest.mark.parametrize("name", ["rows", "rows.ndjson", "rows.JSONL", "rows.txt", "rows.gz"])
@pytest.mark.parametrize("text", ['\n {"text": "a"}\n', '{\n "text": "a"\n}', '[{"text": "a"}]', "[1, 2]"])
def test_rows_of_json_are_no_lines_of_text(tmp_path, name, text):
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(ValueError, match=r"line [12] is JSON, and a file of this name is plain text"):
        list(read_lines(tmp_path / name))


@pytest.mark.parametrize(
    "text", ["12\n", '"quoted"\n', "[a link]\n", "{x} is a set\n", "null\n", 'a\n{"text": "b"}\n']
)
def test_lines_of_text_may_look_like_it(tmp_path, text):
    assert [row["text"] for _, row in read_lines(write(tmp_path / "lines", text))] == text.splitlines()


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_every_compression_is_read(tmp_path, suffix):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    with fsspec.open(str(tmp_path / f"rows.jsonl{suffix}"), "wt", encoding="utf-8", compression="infer") as file:
        file.write(text)
    assert rows_of(tmp_path / f"rows.jsonl{suffix}") == ROWS


@pytest.mark.parametrize("damage", ["cut", "changed", "not packed"])
@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_damaged_file_is_no_shorter_one(tmp_path, suffix, damage):
    """Of rows, of lines and of a whole text; a .zst that ends too early is no file of fewer rows."""
    random.seed(0)
    text = "".join(f"{random.random()}\n" for _ in range(999)).encode()
    file = tmp_path / f"a.txt{suffix}"
    with fsspec.open(str(file), "wb", compression="infer") as stream:
        stream.write(text)
    packed = bytearray(file.read_bytes())
    if damage == "changed":
        packed[-12:-4] = bytes(8)  # what is left of the text, and of the sum of all of it
    file.write_bytes({"cut": packed[:-20], "changed": packed, "not packed": text}[damage])
    for read in (lambda path: list(read_lines(path)), read_text):
        with pytest.raises(ValueError, match=rf"a\.txt{suffix} cannot be unpacked"):
            read(file)
    with pytest.raises(ValueError, match=r"rows\.jsonl\S* (cannot be unpacked|line 1 is a float)"):
        rows_of(file.rename(tmp_path / f"rows.jsonl{suffix}"))


def test_all_frames_of_a_file_are_read(tmp_path):
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"  # as pzstd writes them
    frames = [zstandard.compress(json.dumps(row).encode() + b"\n") for row in ROWS]
    (tmp_path / "a.jsonl.zst").write_bytes(skipped + skipped.join(frames))
    assert rows_of(tmp_path / "a.jsonl.zst") == ROWS


def test_a_file_that_is_small_when_packed_passes_through_memory_in_parts(tmp_path):
    """Of a frame that looks back further than `zstd` does by itself, too, as `zstd --long=31` writes them."""
    line = "a" * 2**16
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    ).compressobj()  # which does not know the size
    (tmp_path / "a.txt.zst").write_bytes(packer.compress(f"{line}\n".encode() * 2**9) + packer.flush())
    tracemalloc.start()
    lengths = {len(row["text"]) for _, row in read_lines(tmp_path / "a.txt.zst")}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lengths == {len(line)} and peak < 2**25


def test_a_lone_surrogate_becomes_the_replacement_character(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"a": ["x\\ud83d", "\\ud83d\\ude00"], "b\\udc00": 1}\n{"a": "\\\\ud800"}')
    assert rows_of(path) == [{"a": ["x\ufffd", "😀"], "b\ufffd": 1}, {"a": "\\ud800"}]


def test_any_rows_come_back(tmp_path):
    random.seed(0)
    letters = string.printable + "éß漢😀\u2028\x85\ufeff"

    def text():
        return "".join(random.choices(letters, k=random.randrange(30)))

    def value(depth=0):
        kinds = [text, lambda: random.randrange(-9, 9), random.random, lambda: None, lambda: random.random() < 0.5]
        nested = [lambda: [value(depth + 1) for _ in range(3)], lambda: {text(): value(depth + 1)}]
        return random.choice(kinds + nested * (depth < 3))()

    rows = [{text(): value() for _ in range(random.randrange(4))} for _ in range(200)]
    for ascii in (True, False):
        lines = [json.dumps(row, ensure_ascii=ascii) for row in rows]
        assert rows_of(write(tmp_path / "rows.jsonl", "\n".join(lines))) == rows
        assert rows_of(write(tmp_path / "rows.json", f"[{','.join(lines)}]")) == rows
