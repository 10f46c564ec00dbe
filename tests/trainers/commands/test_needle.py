"""`lookback needle`, which is `lookback evaluate --needle`."""

import json
import sys

import pytest

from tests.support.needle import TEXTS, made_up, srlm
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import cli
from trainers.commands.needle import NeedleArguments, describe
from trainers.needle.measure import NeedleTest

SMALL = ("--lengths", "600", "3k", "--depths", "0", "100", "--samples", "1", "--max_new_tokens", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("needle")
    srlm(target_size=64).save_pretrained(folder / "srlm")
    tiny_backbone("qwen").save_pretrained(folder / "plain")
    tiny_tokenizer().save_pretrained(folder / "plain")
    (folder / "texts.txt").write_text("".join(TEXTS))
    return folder


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lookback", "evaluate", "--needle", *map(str, arguments)])
    cli.main()


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", ["srlm", "plain"])
def test_it_prints_the_table_and_writes_what_it_is_asked_for(folder, tmp_path, monkeypatch, capsys, kind):
    outputs = ("--output", tmp_path / "o.json", "--report", tmp_path / "o.html", "--picture", tmp_path / "o.svg")
    arguments = ("--model", folder / kind, "--data", folder / "texts.txt", *SMALL, *outputs)
    call(monkeypatch, *arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 process" and lines[3].split() == ["needles", "read", "by", "600", "3k"]
    assert [line.split()[:2] for line in lines[4:7]] == [["1", "alone"], ["1", "no"], ["1", "bm25"]]
    assert lines[4].split()[3] == "-" and lines[7] == "-: longer than the 2,048 positions of the model alone"
    written = json.loads((tmp_path / "o.json").read_text())
    assert (written["model"], written["data"]) == (kind, "texts.txt")
    assert len(written["answers"]) == 10 and str(tmp_path) not in (tmp_path / "o.json").read_text()
    # A repo has its own size; of a plain model's window a chunk is kept for the answer.
    assert written["settings"]["target_size"] == (64 if kind == "srlm" else written["settings"]["chunk_size"])
    page, picture = ((tmp_path / name).read_text() for name in ("o.html", "o.svg"))
    assert kind in page and picture.startswith("<svg") and picture in page
    monkeypatch.setattr(NeedleTest, "answer", lambda *args: 1 / 0)  # all of it is there
    call(monkeypatch, *arguments, "--target_size", written["settings"]["target_size"])
    assert capsys.readouterr().out.splitlines()[3:7] == lines[3:7]


def test_what_is_wrong_is_one_line(folder, monkeypatch, capsys):
    cases = {
        ("--methods", "hybrid"): "needs a retriever and the model has none",
        ("--lengths", "1M", "--methods", "no"): "must fill 1,048,576: give more of them, or shorter --lengths",
        ("--lengths", "3k", "--methods", "alone"): "--lengths 3k is longer than the 2,048 positions",
        ("--lengths", "100"): "--lengths 100 must be at least",
        ("--report", folder / "in.html", "--data", folder): "in.html' lies in --data=",
        ("--picture", folder / "in.svg", "--data", folder): "in.svg' lies in --data=",
    }
    for options, message in cases.items():
        with pytest.raises(SystemExit) as ended:
            call(monkeypatch, "--model", folder / "srlm", "--data", folder / "texts.txt", *options)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lookback needle: ")]
        assert ended.value.code == 2 and len(said) == 1 and message in said[0]


def test_the_report_says_that_states_are_kept():
    model = srlm(reuse_states=True, num_sink_tokens=3)
    settings = dict(describe(NeedleArguments("m"), model, made_up()))
    assert settings["states"] == "kept (reuse_states), 3 sink tokens"
    assert (settings["model"], settings["answers"], settings["window"]) == ("m", "24", "256 tokens")
