"""The demo from end to end, on tiny random models and in few steps."""

import json
import re

import pytest

from tests.support.demo import tiny_lm, tiny_options, tiny_retriever
from tests.support.pretrained import minilm, smollm_gguf
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.demo import pretrained
from trainers.demo.embedded import METHODS, ORACLE_DOCUMENTS
from trainers.demo.run import main, run_demo
from trainers.demo.settings import DemoArguments

TITLES = ("Docstring -> code", "Perplexity, held-out", "Reloaded in a fresh process")


@pytest.mark.slow
def test_demo_runs_and_reports(tmp_path, capsys):
    tiny_backbone().save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    options = DemoArguments(
        backbone=str(tmp_path / "backbone"), output_dir=str(tmp_path / "demo"), llara_steps=4, biencoder_steps=4,
        code_pairs=40, feedback_documents=1, document_length=1600, max_documents=ORACLE_DOCUMENTS + 1,
    )  # fmt: skip
    found = run_demo(options)
    ways = found.ways
    assert [way[1] for way in ways.by_way] == list(METHODS)
    oracle = ("exact", "oracle", "before")
    assert len(ways.texts(oracle)) == ORACLE_DOCUMENTS
    changes = {way: ways.change(way, oracle)[0].mean for way in ways.by_way if way != oracle}
    assert min(changes.values()) > 0
    assert found.reloaded.keys() == {"llara", "biencoder", "srlm"}
    assert all(here == pytest.approx(there, rel=1e-5) for here, there in found.reloaded.values())
    page = (tmp_path / "demo" / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=['\"]http", page)
    printed = capsys.readouterr().out
    assert all(title in printed for title in TITLES)


@pytest.fixture
def tiny_models(monkeypatch):
    monkeypatch.setattr(pretrained, "check_installed", lambda: None)
    monkeypatch.setattr(pretrained, "load_lm", tiny_lm)
    monkeypatch.setattr(pretrained, "load_biencoder", tiny_retriever)
    monkeypatch.setattr(pretrained, "minilm", lambda: "")


@pytest.mark.slow
def test_the_pretrained_loop_goes_on_where_it_was(tmp_path, tiny_models, monkeypatch):
    """Ended within the second round of reading, it reads the rest; what was done is neither read nor trained again."""
    whole = run_demo(tiny_options(tmp_path / "whole"))
    assert whole.reloaded.keys() == {"biencoder", "srlm"}
    monkeypatch.setattr(pretrained, "check_reload", lambda *_, **__: {"srlm": (1.0, 1.0)})
    options, read = tiny_options(tmp_path / "ended"), pretrained.read_texts

    def ended(srlm, documents, method, place):
        if place["stage"] == "after" and method == "hybrid":
            raise KeyboardInterrupt
        return read(srlm, documents, method, place)

    monkeypatch.setattr(pretrained, "read_texts", ended)
    with pytest.raises(KeyboardInterrupt):
        run_demo(options)
    calls = []
    monkeypatch.setattr(pretrained, "read_texts", lambda *given: calls.append(given[2]) or read(*given))
    monkeypatch.setattr(pretrained, "finetune_biencoder", lambda *_, **__: pytest.fail("trained again"))
    again = run_demo(options)
    assert calls == ["hybrid"] * 2 + ["dense"] * 2  # code and prose
    assert again.ranks == whole.ranks and again.rows == whole.rows
    for one, other in zip(again.readings, whole.readings, strict=True):
        assert one.losses == pytest.approx(other.losses, abs=1e-5) and one.retrieved == other.retrieved
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        run_demo(tiny_options(tmp_path / "ended", seed=1))


@pytest.mark.real
def test_the_pretrained_demo(tmp_path):
    """Twenty minutes: real models gain from looking back, as the page says, and both repos load again."""
    minilm(), smollm_gguf()  # or it is skipped
    main(["--pretrained", "--output_dir", str(tmp_path)])
    figures = json.loads((tmp_path / "figures.json").read_text())
    changes = {row[0]: float(row[4].split(" ")[0].replace("\N{MINUS SIGN}", "-"))
               for row in figures["Perplexity, held-out texts"][1:]}  # fmt: skip
    assert changes["the retriever (dense)"] < 0
    assert changes["trying every chunk (oracle)"] < changes["the retriever (dense)"]
    assert [row[0] for row in figures["Reloaded in a fresh process"][1:]] == ["biencoder", "srlm"]
    assert (tmp_path / "report.html").stat().st_size > 100_000
