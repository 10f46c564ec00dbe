"""`--num_shards` of encode, mine and score: the same as without, and what is refused (see tests/faults, too)."""

from pathlib import Path

import pytest
import torch

from modeling_biencoder import BiEncoderModel
from tests.support.beir import CORPUS
from tests.support.feedback import MANY, save_backbone
from tests.support.files import write_rows
from tests.support.mining import PASSAGES, ROWS, biencoder
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.commands import encode, mine, score
from trainers.retrieval import embeddings
from trainers.retrieval.stored import load_stored


def run_encode(folder: Path, name: str, *more: str | int) -> Path:
    places = ["--model", folder / "bi", "--data", folder / "texts.jsonl", "--output", folder / name]
    encode.main([str(one) for one in (*places, "--batch_size", 3, *more)])
    return folder / name


@pytest.fixture(params=["llama", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model `bi` and `texts.jsonl`, which make three parts."""
    monkeypatch.setattr(embeddings, "BATCHES_A_FILE", 1)
    made = BiEncoderModel.from_backbone(tiny_backbone(request.param, lm_head=False), tiny_tokenizer(), pooling="mean")
    made.save_pretrained(tmp_path / "bi")
    write_rows(tmp_path / "texts.jsonl", [{"_id": key, "text": text} for key, text in CORPUS.items()])
    return tmp_path


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("suffix", "precision"), [(".parquet", "int8"), (".safetensors", "float32"), (".npy", "binary")]
)
def test_encode_writes_the_same_numbers(folder: Path, suffix: str, precision: str) -> None:
    whole = load_stored(run_encode(folder, f"whole{suffix}", "--precision", precision))
    path = run_encode(folder, f"shards{suffix}", "--precision", precision, "--num_shards", 2)
    shards = load_stored(path)
    assert torch.equal(shards.embeddings, whole.embeddings)
    assert (shards.ids, shards.texts, shards.about) == (whole.ids, whole.texts, whole.about)
    parts = [len(load_stored(file).ids) for file in sorted(folder.glob(f"shards-*-of-00002{suffix}"))]
    assert parts == [3, 5] and not list(folder.glob("*.shards"))
    with pytest.raises(ValueError, match="is there already"):
        run_encode(folder, f"shards{suffix}", "--precision", precision, "--num_shards", 2)


@pytest.mark.cases(1)
def test_encode_goes_on_where_it_was_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_encode(folder, "whole.safetensors", "--num_shards", 3)
    original, calls = BiEncoderModel.encode, []

    def stops(self, texts, *args, **kwargs):
        calls.append(texts)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return original(self, texts, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(BiEncoderModel, "encode", stops)
        with pytest.raises(KeyboardInterrupt):
            run_encode(folder, "e.safetensors", "--num_shards", 3)
    assert len(list(folder.glob("e-*.safetensors"))) == 2
    with pytest.raises(ValueError, match="num_shards was 3 and is 2"):
        run_encode(folder, "e.safetensors", "--num_shards", 2)
    with pytest.raises(ValueError, match="precision was 'float32' and is 'float16'"):
        run_encode(folder, "e.safetensors", "--num_shards", 3, "--precision", "float16")
    run_encode(folder, "e.safetensors", "--num_shards", 3)
    for file in sorted(folder.glob("e-*")):
        assert file.read_bytes() == whole.with_name(file.name.replace("e-", "whole-")).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_shards", 4], "--num_shards=4 must be at most 3 for 8 texts"),
        (["--num_shards", 0], "--num_shards=0 must be at least 1"),
        (["--num_shards", 2, "--shard_size", 5], "--shard_size=5 has no meaning with --num_shards"),
        (["--num_shards", 2, "--overwrite"], "--overwrite=True has no meaning with --num_shards"),
    ],
)
def test_encode_names_what_does_not_go(tmp_path: Path, options: list, message: str, monkeypatch) -> None:
    monkeypatch.setattr(embeddings, "BATCHES_A_FILE", 1)
    write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in CORPUS.values()])
    with pytest.raises(ValueError, match=message):
        run_encode(tmp_path, "e.safetensors", *options)  # before there has to be a model


def test_mine_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "BATCHES_A_FILE", 8)
    biencoder().save_pretrained(tmp_path / "bi")
    write_rows(tmp_path / "rows.jsonl", ROWS)
    write_rows(tmp_path / "corpus.jsonl", [{"text": text} for text in PASSAGES])

    def run(name: str, *more: str) -> bytes:
        data = ["--data", tmp_path / "rows.jsonl", "--corpus", tmp_path / "corpus.jsonl", "--model", tmp_path / "bi"]
        settings = ["--retriever", "both", "--rank_from", 1, "--num_negatives", 3, "--block_size", 2, "--scores"]
        output = tmp_path / name
        mine.main([str(one) for one in (*data, "--output", output, *settings, "--batch_size", 1, *more)])
        return output.read_bytes()

    plain = run("plain.jsonl")
    assert run("one.jsonl", "--num_shards", "1") == run("three.jsonl", "--num_shards", "3") == plain
    with pytest.raises(ValueError, match="--num_shards=4 must be at most 3"):
        run("four.jsonl", "--num_shards", "4")
    with pytest.raises(ValueError, match="--overwrite=True has no meaning with --num_shards"):
        run("three.jsonl", "--num_shards", "3", "--overwrite")


def test_score_writes_the_same_bytes(tmp_path: Path) -> None:
    model, data = save_backbone(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl", MANY)

    def run(name: str, *more: str) -> bytes:
        output = tmp_path / name
        score.main(["--model", model, "--data", data, "--output", str(output), "--batch_size", "2", *more])
        return output.read_bytes()

    assert run("two.jsonl", "--num_shards", "2") == run("plain.jsonl")
    with pytest.raises(ValueError, match="--num_shards=99 must be at most"):
        run("many.jsonl", "--num_shards", "99")


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("suffix", "precision", "damaged"),
    [(".npy", "float32", ""), (".npy", "float32", ".ids.jsonl"), (".npy", "binary", ".about.json"),
     (".safetensors", "float16", ""), (".parquet", "int8", "")],
)  # fmt: skip
def test_a_damaged_shard_is_made_anew(folder: Path, monkeypatch, caplog, suffix, precision, damaged) -> None:
    given = ("--precision", precision, "--num_shards", 2)
    with monkeypatch.context() as patch:  # the run ends before it tidies up
        patch.setattr("trainers.jobs.shards.Shards.remove", lambda self: None)
        run_encode(folder, f"whole{suffix}", *given)
    whole = {path.name: path.read_bytes() for path in folder.glob("whole-*")}
    last = folder / f"whole-00001-of-00002{damaged or suffix}"
    last.write_bytes(last.read_bytes()[:-9])
    if damaged == ".about.json":
        last.unlink()
    # As behind another process, which is gone: a claim of a living one would have to stand still first.
    for claim in folder.glob("whole*.shards/*.claim"):
        claim.write_text("given up")
    run_encode(folder, f"whole{suffix}", *given)
    assert {path.name: path.read_bytes() for path in folder.glob("whole-*")} == whole
    assert caplog.text.count("is damaged") == 1 and not list(folder.glob("*.shards"))
