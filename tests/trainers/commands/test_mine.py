"""`lookback mine`: interruption, several processes, and what it refuses."""

from pathlib import Path

import pytest
import torch

from modeling_biencoder import BiEncoderModel
from tests.support.files import read_rows, write_rows
from tests.support.mining import PASSAGES, ROWS, biencoder
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import mine_hard_negatives
from trainers.commands.mine import main
from trainers.jobs.parts import PartFiles
from trainers.retrieval.embeddings import EmbeddingFiles

SETTINGS = ["--rank_from", "1", "--num_negatives", "3", "--block_size", "1", "--scores"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command on `ROWS`; the output's path comes back."""
    monkeypatch.setattr("trainers.retrieval.embeddings.BATCHES_A_FILE", 16)
    biencoder().save_pretrained(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl", ROWS)
    write_rows(tmp_path / "corpus.jsonl", [{"text": text} for text in PASSAGES])

    def call(name: str, *extra: str, retriever: str = "both") -> Path:
        main(command(tmp_path, name, "--retriever", retriever, *extra))
        return tmp_path / name

    return call


def command(folder: Path, name: str, *extra: str) -> list[str]:
    data = ["--data", str(folder / "rows.jsonl"), "--corpus", str(folder / "corpus.jsonl")]
    model = [] if "bm25" in extra else ["--model", str(folder / "model"), "--batch_size", "1"]
    return [*data, *model, "--output", str(folder / name), *SETTINGS, *extra]


def die_in(monkeypatch, owner, name, calls, run):
    """A run that dies after so many calls of a method."""
    method, done = getattr(owner, name), []

    def call_or_die(*arguments, **settings):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(None)
        return method(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call_or_die)
        with pytest.raises(KeyboardInterrupt):
            run("out.jsonl")


def test_the_command_and_the_function_give_the_same(run, capsys, tmp_path):
    rows = read_rows(run("out.jsonl"))
    settings = {"retriever": "both", "rank_from": 1, "num_negatives": 3, "block_size": 1, "batch_size": 1}
    assert rows == mine_hard_negatives(ROWS, PASSAGES, biencoder(), scores=True, show_progress=False, **settings)
    written = mine_hard_negatives(
        ROWS, PASSAGES, biencoder(), tmp_path / "same.jsonl", scores=True, show_progress=False, **settings
    )
    assert list(written) == rows
    printed = capsys.readouterr().out
    assert "5 rows in" in printed and "0 with fewer than 3" in printed and "0 without any, left out" in printed
    assert not list(tmp_path.glob("*.parts"))


def test_rows_that_end_short_are_counted(run, capsys):
    rows = read_rows(run("out.jsonl", "--rank_from", "0", "--rank_to", "2", retriever="bm25"))
    assert len(rows) == 5
    assert "5 with fewer than 3" in capsys.readouterr().out
    extra = ["--rank_from", "0", "--max_score", "-1"]
    assert read_rows(run("none.jsonl", *extra, retriever="bm25")) == []
    assert "5 without any, left out" in capsys.readouterr().out
    assert len(read_rows(run("kept.jsonl", *extra, "--keep_empty", retriever="bm25"))) == 5
    assert "5 without any, kept" in capsys.readouterr().out


@pytest.mark.cases(1)
@pytest.mark.parametrize("retriever", ["both", "bm25"])
def test_an_interrupted_search_goes_on_to_the_same_file(run, monkeypatch, capsys, retriever):
    whole = run("whole.jsonl", retriever=retriever)
    die_in(monkeypatch, PartFiles, "append", 2, lambda name: run(name, retriever=retriever))
    encoded = []
    encode = BiEncoderModel.encode
    monkeypatch.setattr(BiEncoderModel, "encode", lambda *a, **k: (encoded.append(a[1]), encode(*a, **k))[1])
    assert run("out.jsonl", retriever=retriever).read_bytes() == whole.read_bytes()
    assert "2 of 5 groups by an earlier run" in capsys.readouterr().out
    assert not any(text in PASSAGES for texts in encoded for text in texts if text != ROWS[3]["query"])


def test_an_interrupted_encoding_goes_on_to_the_same_file(run, monkeypatch):
    whole = run("whole.jsonl")
    die_in(monkeypatch, EmbeddingFiles, "pieces", 0, run)
    parts = sorted((whole.parent / "out.jsonl.parts").glob("*.safetensors"))
    assert len(parts) == 3
    parts[1].rename(parts[1].with_name(f".{parts[1].name}.part"))  # as if killed while writing it
    encoded = []
    encode = BiEncoderModel.encode
    monkeypatch.setattr(BiEncoderModel, "encode", lambda *a, **k: (encoded.append(len(a[1])), encode(*a, **k))[1])
    assert run("out.jsonl").read_bytes() == whole.read_bytes()
    encoded = [texts for texts in encoded if texts]  # none at the start, to check the task
    assert encoded[0] == 16 and max(encoded[1:]) < 3


def test_the_same_weights_in_another_dtype_do_not_go_on(run, monkeypatch, tmp_path):
    biencoder().to(torch.bfloat16).save_pretrained(tmp_path / "model")
    die_in(monkeypatch, PartFiles, "append", 1, run)
    with pytest.raises(ValueError, match=r"dtype of the weights was 'bfloat16' and is 'float32'.*--overwrite"):
        run("out.jsonl", "--dtype", "float32")


@pytest.mark.slow
def test_what_was_another_run_does_not_go_on(run, monkeypatch, tmp_path):
    die_in(monkeypatch, PartFiles, "append", 2, run)
    with pytest.raises(ValueError, match=r"margin was None and is 0\.1.*--overwrite"):
        run("out.jsonl", "--margin", "0.1")
    write_rows(tmp_path / "corpus.jsonl", [{"text": text} for text in PASSAGES[:-1]])
    with pytest.raises(ValueError, match="sha256 of the corpus was"):
        run("out.jsonl")
    write_rows(tmp_path / "corpus.jsonl", [{"text": text} for text in PASSAGES])
    other = BiEncoderModel.from_backbone(tiny_backbone(seed=1, lm_head=False), tiny_tokenizer(), pooling="mean")
    other.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="sha256 of the weights was"):
        run("out.jsonl")
    assert run("out.jsonl", "--overwrite").read_bytes() == run("new.jsonl").read_bytes()


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--output", "out.json"], "must end in .jsonl"),
        (["--output", "rows.jsonl"], "lies in --data"),
        (["--corpus", "."], "lies in --corpus"),
        (["--pooling", "mean"], "brings its own"),
        (["--model", "plain"], "'plain' is a plain llama, no bi-encoder: .*--pooling"),
    ],
)
def test_bad_arguments(run, tmp_path, monkeypatch, extra, message):
    monkeypatch.chdir(tmp_path)
    if "plain" in extra:
        tiny_backbone(lm_head=False).save_pretrained("plain")
    with pytest.raises(ValueError, match=message):
        run("out.jsonl", *extra)


def test_a_plain_backbone_with_pooling(run, tmp_path):
    tiny_backbone(lm_head=False).save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    assert len(read_rows(run("out.jsonl", "--model", str(tmp_path / "plain"), "--pooling", "mean"))) == 5
