"""`lookback evaluate` and `lookback encode`."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from modeling_biencoder import BiEncoderModel
from tests.support.beir import CORPUS, QRELS, QUERIES, write_beir
from tests.support.files import write_rows
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import RetrievalEvaluator, cli, load_embeddings
from trainers.commands import encode as encode_command
from trainers.commands import evaluate as evaluate_command
from trainers.retrieval import embeddings as module
from trainers.retrieval.quantization import quantize, ranges_of
from trainers.retrieval.stored import SUFFIXES, load_stored


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    prompts = {"default": {"query": "ask: "}, "facts": {"passage": "fact: "}}
    made = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), prompts=prompts)
    made.save_pretrained(folder)
    return str(folder)


def evaluate(model, data, *more):
    evaluate_command.main(["--model", model, "--data", str(data), "--ks", "2", "5", *map(str, more)])


def encode(model, data, output, *more):
    encode_command.main(["--model", model, "--data", str(data), "--output", str(output), *map(str, more)])


def test_evaluate_prints_a_table_with_bm25_beside_and_writes_the_metrics(model, tmp_path, capsys):
    write_beir(tmp_path / "beir" / "one")
    write_beir(tmp_path / "beir" / "two", corpus={key: text[::-1] for key, text in CORPUS.items()})
    options = ["--baseline", "bm25", "--output", tmp_path / "metrics.json", "--truncate_dims", 8]
    evaluate(model, tmp_path / "beir", *options, "--metrics", "ndcg", "hit_rate")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "1 process"
    written = json.loads((tmp_path / "metrics.json").read_text())
    one = RetrievalEvaluator(QUERIES, CORPUS, QRELS, ks=(2, 5), metrics=("ndcg", "hit_rate"), truncate_dims=[8])
    expected = one(BiEncoderModel.from_pretrained(model))
    assert written["metrics"]["one"] == pytest.approx(expected) and written["bm25"]["one"] == one.bm25()
    mean = (expected["ndcg@5"] + written["metrics"]["two"]["ndcg@5"]) / 2
    assert written["metrics"]["mean"]["ndcg@5"] == pytest.approx(mean)
    assert written["sizes"]["two"] == {"queries": 6, "passages": 8, "queries left out": 2}
    assert lines[0].split() == ["data", "set", "retriever", "ndcg@2", "hit_rate@2", "ndcg@5", "hit_rate@5"]
    assert [line[:8].strip() for line in lines[1:10]] == ["one", "", "", "two", "", "", "mean", "", ""]
    assert lines[1].split()[1:] == ["model", *(f"{expected[name]:.4f}" for name in lines[0].split()[3:])]
    assert lines[2].split()[:3] == ["model,", "8", "numbers"] and f"{expected['dim8_ndcg@2']:.4f}" in lines[2]
    assert lines[3].split() == ["BM25", *(f"{one.bm25()[name]:.4f}" for name in lines[0].split()[3:])]


def test_evaluate_one_folder_has_no_mean(model, tmp_path, capsys):
    evaluate(model, write_beir(tmp_path / "scifact"), "--task", "facts")
    _, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].startswith("scifact   model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "metrics.txt"], "must end in .json"),
        (["--metrics", "mmr"], "no metric 'mmr'"),
        (["--task", "fact"], "task='fact' has no prompt"),
        (["--split", "dev"], "has no split 'dev'"),
        (["--truncate_dims", "64"], "truncate_dim=64 is wider"),
    ],
)
def test_evaluate_names_what_is_wrong(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(model, write_beir(tmp_path), *options)


def test_encode_writes_embeddings_and_ids(model, tmp_path, capsys):
    rows = [{"_id": key, "title": "T" * (i % 2), "text": text} for i, (key, text) in enumerate(CORPUS.items())]
    write_rows(tmp_path / "corpus.jsonl", rows)
    output = tmp_path / "embeddings.safetensors"
    encode(model, tmp_path / "corpus.jsonl", output, "--task", "facts", "--batch_size", 2)
    assert f"8 embeddings of 32 numbers in {output}" in capsys.readouterr().out
    embeddings, ids = load_embeddings(output)
    texts = [f"{row['title']} {row['text']}".strip() for row in rows]
    expected = BiEncoderModel.from_pretrained(model).encode(texts, role="passage", task="facts")
    assert ids == list(CORPUS) and torch.allclose(embeddings, expected, atol=1e-6)
    with safe_open(output, "pt") as file:
        about = file.metadata()
    assert (about["model"], about["role"], about["task"]) == (Path(model).name, "passage", "facts")
    assert (about["precision"], about["width"], "model_path" in about) == ("float32", "32", False)
    assert not output.with_name(output.name + ".parts").exists()
    for other in (output, output.with_suffix(".npy")):  # whose ids are in the way
        with pytest.raises(ValueError, match=r"is there already|write its ids over those of"):
            encode(model, tmp_path / "corpus.jsonl", other)


@pytest.mark.cases(2)
@pytest.mark.parametrize("precision", ["int8", "binary"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_encode_writes_every_form_in_every_precision(model, tmp_path, monkeypatch, suffix, precision):
    monkeypatch.setattr(module, "BATCHES_A_FILE", 1)
    texts = [{"_id": key, "text": text} for key, text in CORPUS.items()]
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, texts)).encode()))
    options = ["--precision", precision, "--shard_size", 3, "--batch_size", 5]
    encode(model, tmp_path / "corpus.jsonl.gz", tmp_path / f"e{suffix}", *options)
    stored = load_stored(tmp_path / f"e{suffix}")
    whole = BiEncoderModel.from_pretrained(model).encode(list(CORPUS.values()), role="passage")
    expected = quantize(whole, precision, ranges_of([whole]))
    assert stored.ids == list(CORPUS) and stored.embeddings.shape == expected.shape
    assert (stored.embeddings.int() - expected.int()).abs().max() <= (1 if precision == "int8" else 0)
    assert stored.texts == (list(CORPUS.values()) if suffix == ".parquet" else None)
    with pytest.raises(ValueError, match="is there already"):
        encode(model, tmp_path / "corpus.jsonl.gz", tmp_path / f"e{suffix}", *options)
    encode(model, tmp_path / "corpus.jsonl.gz", tmp_path / f"e{suffix}", "--overwrite")
    files = {".safetensors": [".ids.jsonl"], ".npy": [".ids.jsonl", ".about.json"], ".parquet": []}[suffix]
    assert {file.name for file in tmp_path.iterdir()} == {
        "corpus.jsonl.gz",
        f"e{suffix}",
        *(f"e{end}" for end in files),
    }


def test_encode_takes_lines_and_halves_the_file(model, tmp_path):
    (tmp_path / "queries.txt").write_text("who is it\n\nwhere is it\n")
    output = tmp_path / "q.safetensors"
    encode(model, tmp_path / "queries.txt", output, "--role", "query", "--truncate_dim", 8, "--precision", "float16")
    embeddings, ids = load_embeddings(output)
    loaded = BiEncoderModel.from_pretrained(model)
    expected = loaded.encode(["who is it", "where is it"], role="query", truncate_dim=8)
    assert ids == ["0", "2"] and embeddings.dtype == torch.float16 and embeddings.shape == (2, 8)
    assert torch.allclose(embeddings.float(), expected, atol=1e-3)
    (tmp_path / "q.ids.jsonl").write_text('"0"\n')
    with pytest.raises(ValueError, match="has 1 ids for 2 embeddings"):
        load_embeddings(output)


def test_an_interrupted_encode_goes_on_where_it_was(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCHES_A_FILE", 1)
    write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in CORPUS.values()])
    arguments = (model, tmp_path / "texts.jsonl", tmp_path / "e.safetensors", "--batch_size", 3)
    original, calls = BiEncoderModel.encode, []

    def stops(self, texts, *args, **kwargs):
        calls.extend(texts)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return original(self, texts, *args, **kwargs)

    monkeypatch.setattr(BiEncoderModel, "encode", stops)
    with pytest.raises(KeyboardInterrupt):
        encode(*arguments)
    assert not (tmp_path / "e.safetensors").exists()
    seen = []
    monkeypatch.setattr(
        BiEncoderModel, "encode", lambda self, texts, *a, **k: seen.extend(texts) or original(self, texts, *a, **k)
    )
    with pytest.raises(ValueError, match="role was 'passage' and is 'query'"):
        encode(*arguments, "--role", "query")
    encode(*arguments)
    assert seen == list(CORPUS.values())[6:]
    expected = original(BiEncoderModel.from_pretrained(model), list(CORPUS.values()), role="passage")
    embeddings, ids = load_embeddings(tmp_path / "e.safetensors")
    assert torch.allclose(embeddings, expected, atol=1e-6) and ids == [str(number) for number in range(8)]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('{"text": "a"}\n{"title": "b"}\n', [], "line 2: field 'text' is None"),
        ('{"text": "a"}\n', ["--truncate_dim", "33"], "truncate_dim=33 is wider"),
        ('{"text": "a"}\n', ["--task", "fact"], "task='fact' has no prompt"),
        ('{"text": "a"}\n', ["--batch_size", "0"], "must be at least 1"),
        ("\n", [], "holds no row"),
        ('{"text": "a"}\n', ["--precision", "int8"], "needs two texts or more"),
        ('{"text": "a"}\n', ["--shard_size", "0"], "--shard_size=0 must be at least 1"),
    ],
)
def test_encode_names_what_is_wrong(model, tmp_path, content, options, message):
    (tmp_path / "texts.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        encode(model, tmp_path / "texts.jsonl", tmp_path / "e.safetensors", *options)


def test_other_outputs_and_plain_backbones(model, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors, \.parquet, \.npy"):
        encode(model, tmp_path, tmp_path / "e.bin")
    tiny_backbone().save_pretrained(tmp_path / "lm")
    with pytest.raises(ValueError, match="is a plain llama"):
        evaluate(str(tmp_path / "lm"), write_beir(tmp_path / "beir"))
    assert {"evaluate", "encode"} <= set(cli.COMMANDS)


def test_encode_with_weights_of_nan_is_refused_and_writes_nothing(model, tmp_path, capsys, monkeypatch):
    broken = BiEncoderModel.from_pretrained(model)
    torch.nn.init.constant_(next(broken.backbone.parameters()), float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": "lantern"}])
    options = ["--model", tmp_path / "broken", "--data", texts, "--output", tmp_path / "e.safetensors"]
    monkeypatch.setattr("sys.argv", ["lookback", "encode", *map(str, options)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code not in (0, None)
    assert "holds NaN or infinity" in f"{end.value.code}{capsys.readouterr().err}"
    assert not (tmp_path / "e.safetensors").exists()
