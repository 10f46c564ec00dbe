"""What a user can mend ends in one line and exit status 2, for every command; a fault of ours in a traceback."""

import errno
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoTokenizer

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support import ROOT
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import cli
from trainers.commands.errors import message_of, without_tokens

GOOD = {"query": "a", "pos": ["b"], "neg": ["c"], "text": "one two three", "answers": ["d"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer()).save_pretrained(folder / "biencoder")
    settings = {"context_window_size": 64, "chunk_size": 8, "retrieval_method": "bm25"}
    SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **settings).save_pretrained(folder / "lm")
    tiny_backbone().save_pretrained(folder / "plain")
    tiny_tokenizer().save_pretrained(folder / "plain")
    return folder


def ends(monkeypatch, capsys, *arguments: object) -> str:
    """What the command says on its way out, with exit status 2."""
    monkeypatch.setattr(sys, "argv", ["lookback", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"lookback {arguments[0]}: ")
    return said


def bad_file(kind: str, folder: Path) -> Path:
    line = json.dumps(GOOD) + "\n"
    path = folder / "rows.jsonl"
    if kind == "loop":
        path.symlink_to(path)
        return path
    content = {
        "gzip": gzip.compress(line.encode()),
        "empty": b"",
        "latin-1": line.encode() + '{"query": "\u00e9"}'.encode("latin-1"),
        "utf-16": line.encode("utf-16"),
        "nested": b'{"query": ' + b"[" * 100_000,
        "no json": line.encode() + b"{",
        "no object": line.encode() + b"[1]",
    }
    path.write_bytes(content[kind])
    return path


BAD = {
    "gzip": r"rows\.jsonl is compressed by gzip: add \.gz to its name",
    "empty": r"holds no row|is empty",
    "latin-1": r"rows\.jsonl, line 2 is not UTF-8",
    "utf-16": r"rows\.jsonl is UTF-16: save it as UTF-8",
    "nested": r"rows\.jsonl, line 1 is nested too deep",
    "no json": r"rows\.jsonl, line 2 is no JSON",
    "no object": r"rows\.jsonl, line 2 is a list",
    "loop": r"(no file or folder|neither a file|is a symbolic link).*|rows\.jsonl.*(symbolic link|neither a file)",
}
COMMANDS = {
    "finetune": ["--model", "plain", "--train_data", "DATA", "--output_dir", "OUT", "--train_group_size", 1],
    "pretrain": ["--model", "plain", "--train_data", "DATA", "--output_dir", "OUT"],
    "train-lm": ["--model", "lm", "--train_data", "DATA", "--output_dir", "OUT"],
    "mine": ["--data", "DATA", "--output", "OUT.jsonl", "--retriever", "bm25"],
    "score": ["--model", "lm", "--data", "DATA", "--output", "OUT.jsonl", "--task", "qa"],
    "encode": ["--model", "biencoder", "--data", "DATA", "--output", "OUT.safetensors"],
    "perplexity": ["--model", "lm", "--data", "DATA", "--methods", "no"],
}


@pytest.mark.cases(4)
@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_file_is_one_line(model, tmp_path, monkeypatch, capsys, command, kind):
    places = {"DATA": bad_file(kind, tmp_path), "OUT": tmp_path / "out", "plain": model / "plain"}
    places |= {"lm": model / "lm", "biencoder": model / "biencoder"}
    options = [
        f"{places[option.partition('.')[0]]}{'.' * ('.' in option)}{option.partition('.')[2]}"
        if str(option).partition(".")[0] in places
        else option
        for option in COMMANDS[command]
    ]
    said = ends(monkeypatch, capsys, command, *options)
    assert re.search(BAD[kind], said), said


def test_folders_links_and_repos_that_cannot_be(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop" in ends(monkeypatch, capsys, "pull", "--inspect", tmp_path / "loop")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable was read at the import
    assert "nowhere" in ends(monkeypatch, capsys, "encode", "--model", tmp_path / "nowhere", "--data", __file__,
                             "--output", tmp_path / "e.safetensors")  # fmt: skip
    files = ["--data", __file__, "--output", tmp_path / "e.safetensors"]
    assert "user/none" in ends(monkeypatch, capsys, "encode", "--model", "user/none", *files)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD))
    path.chmod(0)
    said = ends(monkeypatch, capsys, "mine", "--data", path, "--output", tmp_path / "o.jsonl", "--retriever", "bm25")
    assert "rows.jsonl" in said and "give this user the right to it" in said


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: free some space and run"),
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), "'a.bin': No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "'x': Permission denied: give this user the right"),
        (RuntimeError("PytorchStreamWriter failed writing file data/1"), "checkpoint could not be written: free some"),
        (RuntimeError("Symlink loop from '/a'"), "Symlink loop from '/a': it is a symbolic link that leads to itself"),
        (KeyError("The `metric_for_best_model` training argument is set to 'a'"), "argument is set to 'a'"),
        (ImportError("x requires the y library: pip install y"), "pip install y"),
        (RecursionError("maximum recursion depth"), "nested too deep"),
        (OSError("a\n\n  b is no\nrepo"), "a b is no repo"),
    ],
)
def test_errors_of_the_system_say_what_to_do(error, message):
    assert message in (message_of(error) or "")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("x"), IndexError(), AssertionError()])
def test_a_fault_of_ours_is_no_message(error):
    assert message_of(error) is None


def test_debug_shows_where_an_error_came_from(tmp_path, monkeypatch):
    command = [
        "mine",
        "--debug",
        "--data",
        tmp_path / "no.jsonl",
        "--output",
        tmp_path / "o.jsonl",
        "--retriever",
        "bm25",
    ]
    monkeypatch.setattr(sys, "argv", ["lookback", *map(str, command)])
    with pytest.raises(ValueError, match="no file or folder"):
        cli.main()


def test_no_token_is_repeated(tmp_path, monkeypatch, capsys):
    url = "https://user:hf_abcdefghijkl@hub.example/user/name"
    for option in ("--model", "--data"):
        places = {"--model": "m", "--data": "d", "--output": tmp_path / "e.safetensors", option: url}
        said = ends(monkeypatch, capsys, "encode", *(word for place in places.items() for word in place))
        assert "hf_abcdefghijkl" not in said and "https://***@hub.example/user/name has a password" in said
    assert without_tokens("from https://a:b@c/d by hf_abcdefgh1") == "from https://***@c/d by hf_***"
    assert without_tokens("https://c/d@main and user@host") == "https://c/d@main and user@host"


def test_arguments_that_are_no_text_are_named(tmp_path, monkeypatch, capsys):
    said = ends(monkeypatch, capsys, "mine", "--data", "a\udcff.jsonl", "--output", tmp_path / "o.jsonl")
    assert "'a\\udcff.jsonl' is not UTF-8: rename the file" in said


def test_an_error_of_a_worker_and_of_many_lines_is_one_line():
    caught = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File"
    assert message_of(ValueError(f"{caught} x\nValueError: a.jsonl, line 2: no\n  text")) == "a.jsonl, line 2: no text"


def test_a_full_cache_is_named(monkeypatch, tmp_path):
    def library(name: str) -> None:
        raise_in = {"__name__": f"{name}.downloads", "error": OSError(errno.ENOSPC, "No space left on device")}
        exec("raise error", raise_in)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, place in {"huggingface_hub": f"'{tmp_path / 'hub'}': ", "another": ""}.items():
        with pytest.raises(OSError) as raised:
            library(name)
        assert message_of(raised.value).startswith(f"{place}No space left on device: free some space")


def test_a_tokenizer_that_is_fetched_onto_a_full_disk_is_no_missing_one(model, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    biencoder = BiEncoderModel.from_pretrained(model / "biencoder")
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        biencoder.encode(["a"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.slow
def test_a_standard_output_without_space_is_said(model):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "trainers.cli", "pull", "--inspect", model / "biencoder"], stdout=full,
            stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT, env=environment,
        )  # fmt: skip
    said = "lookback pull: 'the standard output': No space left on device: free some space"
    assert ended.returncode == 2 and ended.stderr.splitlines()[-1].startswith(said), ended
