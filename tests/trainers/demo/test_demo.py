"""The demo from end to end, on a tiny random backbone and in few steps."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.demo import report
from trainers.demo.run import METHODS, run_demo
from trainers.demo.settings import DemoArguments


@pytest.mark.slow
def test_demo_runs_and_reports(tmp_path, capsys):
    tiny_backbone().save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    options = DemoArguments(
        backbone=str(tmp_path / "backbone"), output_dir=str(tmp_path / "demo"), llara_steps=4, biencoder_steps=4,
        code_pairs=40, feedback_documents=1, document_length=1600, max_documents=2,
    )  # fmt: skip
    figures = run_demo(options)
    assert [result.method for result in figures["perplexities"]] == list(METHODS)
    by_method = {result.method: result.perplexity for result in figures["perplexities"]}
    assert by_method["oracle"] == min(by_method.values())
    assert figures["reloaded"] and all(
        here == pytest.approx(there, rel=1e-5) for here, there in figures["reloaded"].values()
    )
    page = (tmp_path / "demo" / "report.html").read_text()
    assert len(re.findall("<img", page)) == 4
    assert not re.findall(r"(?:src|href)='http", page)
    printed = capsys.readouterr().out
    for title in ("Docstring -> code", "Perplexity, held-out", "Reloaded in a fresh process"):
        assert title in printed


@pytest.mark.parametrize("installed", [True, False])
def test_the_report_needs_no_matplotlib(tmp_path, monkeypatch, installed):
    """It is an extra: whoever installs the wheel alone has a demo all the same."""
    if not installed:
        monkeypatch.setattr(report, "find_spec", lambda name: None)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    table = {"Figures": [["a", "b"], ["1", "2"]]}
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
    indices = torch.tensor([[4, 5]])
    looked = SimpleNamespace(target_indices=indices, retrieved_indices=torch.tensor([[[1, -1], [2, 3]]]))
    result = SimpleNamespace(method="bm25", perplexity=3.0, outputs=[looked])
    report.write_report(tmp_path / "report.html", table, {"LLaRA": log}, [result], ("a.py", result))
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 3 * installed and page.count("No plot") == 3 * (not installed)
    assert "<td>2</td>" in page
