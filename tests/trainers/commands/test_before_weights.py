"""The commands refuse what does not fit a model before its weights are read: here they are not even there."""

import json

import pytest

from tests.support.beir import write_beir
from tests.support.families import build
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.commands import convert, encode, evaluate, explain, generate, mine, needle, perplexity, score, search

NO_WEIGHTS = "no file named model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A backbone and a repo of each family, as they are but for the weights; and data."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("biencoder", "llara", "srlm"):
        build(name).save_pretrained(folder / name)
    tiny_backbone().save_pretrained(folder / "lm")
    tiny_tokenizer().save_pretrained(folder / "lm")
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("one two", "three")))
    model, texts = str(folder / "biencoder"), str(folder / "texts.jsonl")
    encode.main(["--model", model, "--data", texts, "--output", str(folder / "index.npy")])
    encode.main(["--model", model, "--data", texts, "--output", str(folder / "bits.npy"), "--precision", "binary"])
    narrow = ["--truncate_dim", "16"]
    encode.main(["--model", model, "--data", texts, "--output", str(folder / "narrow.npy"), *narrow])
    write_beir(folder / "beir")
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    pair = {"query": "a", "pos": ["b"], "neg": ["c"], "answers": ["d"]}
    (folder / "pairs.jsonl").write_text(json.dumps(pair))
    (folder / "bad.jsonl").write_text(json.dumps(pair) + "\n" + json.dumps({"query": "a"}))
    (folder / "bad_texts.jsonl").write_text('{"text": "a"}\n{"text": null}')
    long = {**pair, "query": "a long query " * 20}
    (folder / "long.jsonl").write_text(f"{json.dumps(pair)}\n{json.dumps(long)}")
    (folder / "blank.txt").write_text("x")
    (folder / "bad_late.jsonl").write_text('{"text": "a"}\n' * 3000 + '{"text": 5}')
    (folder / "long.txt").write_text("one two three four five six\n" * 999)
    chat = {"history": ["one", "two"], "query": "three", "answers": ["four"]}
    (folder / "chats.jsonl").write_text(json.dumps(chat))
    (folder / "bad_chats.jsonl").write_text(f"{json.dumps(chat)}\n{json.dumps({**chat, 'history': 'one'})}")
    (folder / "other.json").write_text("{}")
    return folder


RUNS = {
    "encode": (encode, "biencoder", ["--data", "FOLDER/texts.jsonl", "--output", "OUT/e.npy"]),
    "encode a LLaRA": (encode, "llara", ["--data", "FOLDER/texts.jsonl", "--output", "OUT/e.npy"]),
    "encode a backbone": (
        encode, "lm", ["--pooling", "mean", "--data", "FOLDER/texts.jsonl", "--output", "OUT/e.npy"],
    ),
    "mine": (mine, "biencoder", ["--rank_from", "0", "--data", "FOLDER/pairs.jsonl", "--output", "OUT/m.jsonl"]),
    "perplexity": (perplexity, "lm", ["--data", "FOLDER/texts.jsonl"]),
    "perplexity of a repo": (perplexity, "srlm", ["--data", "FOLDER/texts.jsonl"]),
    "generate": (generate, "lm", ["--prompt", "one two"]),
    "convert": (convert, "llara", ["--output", "OUT/c"]),
    "evaluate": (evaluate, "biencoder", ["--data", "FOLDER/beir"]),
    "search": (search, "biencoder", ["--index", "FOLDER/index.npy", "--query", "one"]),
    "score": (score, "lm", ["--task", "qa", "--data", "FOLDER/pairs.jsonl", "--output", "OUT/s.jsonl"]),
    "score documents": (
        score, "lm", ["--task", "document", "--data", "FOLDER/long.txt", "--output", "OUT/s.jsonl"],
    ),
    "teacher": (score, "biencoder", ["--data", "FOLDER/pairs.jsonl", "--output", "OUT/s.jsonl"]),
    "chat": (perplexity, "lm", ["--task", "chat", "--data", "FOLDER/chats.jsonl"]),
    "needle": (needle, "lm", ["--lengths", "512", "--data", "FOLDER/long.txt"]),
}  # fmt: skip


def run(name, folders, out, *options):
    command, model, given = RUNS[name]
    given = [word.replace("FOLDER", str(folders)).replace("OUT", str(out)) for word in given]
    options = [word.replace("FOLDER", str(folders)) for word in options]
    command.main(["--teacher" if name == "teacher" else "--model", str(folders / model), *given, *options])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("encode", ["--truncate_dim", "33"], "truncate_dim=33 is wider than the embeddings"),
        ("encode a LLaRA", ["--truncate_dim", "33"], "truncate_dim=33 is wider than the embeddings"),
        ("encode a backbone", ["--truncate_dim", "33"], "truncate_dim=33 is wider than the embeddings"),
        ("encode", ["--task", "nonsense"], "task='?nonsense|task 'nonsense'|nonsense"),
        ("mine", ["--task", "nonsense"], "nonsense"),
        ("perplexity", ["--methods", "none"], "--methods='none' is not known.*'no'"),
        ("perplexity", ["--methods", "no", "dense"], "'dense' needs a retriever and the model has none"),
        ("perplexity", ["--context_window_size", "4096"], "the backbone has 2048"),
        ("perplexity of a repo", ["--context_window_size", "4096"], "the backbone has 2048"),
        ("perplexity of a repo", ["--methods", "bm25", "--chunk_size", "24"], "must divide into chunks"),
        ("generate", ["--retrieval_method", "dense"], "'dense' needs a retriever and the model has none"),
        ("generate", ["--key_num", "4096"], "the backbone has 2048|does not fit"),
        ("convert", ["--max_length", "9999"], "max_length=9999 is longer than the backbone's 2048 positions"),
        ("convert", ["--temperature", "0"], "temperature=0"),
        ("evaluate", ["--task", "nonsense"], "nonsense"),
        ("evaluate", ["--truncate_dims", "16", "33"], "truncate_dim=33 is wider than the embeddings"),
        ("evaluate", ["--query_max_length", "9999"], "query_max_length=9999 is longer than the backbone's 2048"),
        ("search", ["--task", "nonsense"], "nonsense"),
        ("search", ["--text_field", "body"], "--text_field='body' is of the rows of --data"),
        ("search", ["--index", "FOLDER/bits.npy", "--rescore", "FOLDER/narrow.npy"], "16 numbers.*of the same width"),
        ("mine", ["--data", "FOLDER/bad.jsonl"], "bad.jsonl, line 2: field 'pos'"),
        ("mine", ["--corpus", "FOLDER/bad_texts.jsonl"], "bad_texts.jsonl, line 2"),
        ("score", ["--data", "FOLDER/bad.jsonl"], "bad.jsonl, line 2"),
        ("score documents", ["--data", "FOLDER/bad_texts.jsonl"], "bad_texts.jsonl, line 2"),
        ("teacher", ["--data", "FOLDER/bad.jsonl"], "bad.jsonl, line 2"),
        ("perplexity", ["--data", "FOLDER/bad_texts.jsonl"], "bad_texts.jsonl, line 2"),
        ("generate", ["--retrieval_method", "oracle"], "--retrieval_method='oracle' must be one of|oracle"),
        ("needle", ["--methods", "dense"], "'dense' needs a retriever and the model has none"),
        ("needle", ["--output", "FOLDER/other.json"], "holds no needle test"),
        ("needle", ["--lengths", "100"], "--lengths 100 must be at least"),
        ("needle", ["--lengths", "3k", "--methods", "alone"], "--lengths 3k is longer than the 2,048 positions"),
        ("needle", ["--data", "FOLDER/texts.jsonl"], "must fill 512: give more of them, or shorter --lengths"),
        ("needle", ["--data", "FOLDER/bad_texts.jsonl"], "bad_texts.jsonl, line 2: field 'text' is None"),
        ("chat", ["--data", "FOLDER/bad_chats.jsonl"], "bad_chats.jsonl, line 2: field 'history' is 'one'"),
        ("perplexity", ["--max_length", "2", "--data", "FOLDER/blank.txt"], "nothing can be scored"),
        ("score documents", ["--document_length", "10"], "document_length is 10 tokens; a window of .* has two keys"),
        ("score documents", ["--data", "FOLDER/texts.jsonl"], "the longest document has .* Give longer documents"),
        ("score documents", ["--data", "FOLDER/bad_late.jsonl"], "bad_late.jsonl, line 3001"),
        (
            "score",
            ["--context_window_size", "32", "--chunk_size", "16", "--data", "FOLDER/long.jsonl"],
            "line 2: query and scored text take .* the window has 32",
        ),
    ],
)
def test_what_does_not_fit_is_said(folders, tmp_path, name, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        run(name, folders, tmp_path, *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", RUNS)
def test_what_fits_comes_to_the_weights(folders, tmp_path, name):
    with pytest.raises((OSError, ValueError), match=NO_WEIGHTS):
        run(name, folders, tmp_path)


def test_texts_longer_than_the_positions_are_not_explained():
    model = build("llara")
    with pytest.raises(ValueError, match="max_length=9999 needs"):
        explain.explain(model, ["one two"], max_length=9999)
