"""examples/tour.ipynb runs as it stands, in under a minute, and shows what it says."""

import ast
import time

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support import ROOT

NOTEBOOK = ROOT / "examples/tour.ipynb"


def test_it_is_saved_without_what_a_run_left():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


@pytest.mark.slow
def test_it_runs_and_shows_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    began = time.process_time(), time.perf_counter()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert time.perf_counter() - began[1] < 600
    shown = ["".join(out.get("text", "") for out in cell.outputs if out.get("name") == "stdout")
             for cell in notebook.cells if cell.cell_type == "code"]  # fmt: skip
    printed = [ast.literal_eval(text.splitlines()[-1]) for text in shown if text.rstrip().endswith("}")]
    before, after, perplexity = printed[0], printed[-2], printed[-1]
    assert after["mrr@10"] > before["mrr@10"] > 0
    assert perplexity["bm25"] < perplexity["no"] and perplexity["dense"] < perplexity["no"]
