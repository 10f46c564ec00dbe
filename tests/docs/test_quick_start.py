"""docs/quick_start.md leads from MiniLM to a tuned, measured, exported, searched model: its lines run in order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.pages import blocks_of, text_of
from tests.support.pretrained import minilm

PAGE = "docs/quick_start.md"
MADE_BEFORE = "make install-pretrained"  # the environment that the tests run in


def script() -> str:
    """The page as one bash script; Python blocks are one program, as they are typed into one interpreter."""
    python = "\n".join(block.text for block in blocks_of(PAGE, "python"))
    shell = [block.text for block in blocks_of(PAGE, "bash")]
    assert MADE_BEFORE in shell[0]
    return "\n".join([*shell[1:], f".venv/bin/python - <<'END_OF_PYTHON'\n{python}\nEND_OF_PYTHON\n"])


def clone(folder: Path) -> None:
    """What a fresh clone has after `make install-pretrained`, as far as the page names it."""
    for name in ("examples", "hub_cards", "modeling_biencoder", "modeling_llara", "modeling_srlm", "trainers"):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name, what in (("python", ""), ("lookback", " -m trainers.cli")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{what} "$@"\n')
        (programs / name).chmod(0o755)


def test_every_line_is_one_that_can_be_copied():
    assert all(block.reason is None and block.language in ("bash", "python") for block in blocks_of(PAGE))
    assert "make install-pretrained" in (ROOT / "Makefile").read_text().replace(
        "install-pretrained:", "make install-pretrained"
    )
    for step in ("evaluate", "mine", "finetune", "encode", "search", "export_sentence_transformers"):
        assert step in script()


@pytest.mark.real
def test_the_page_from_top_to_bottom(tmp_path):
    minilm()  # skipped without it
    clone(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script()], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    before, after = (json.loads((tmp_path / f"runs/{name}.json").read_text()) for name in ("before", "after"))
    found, tuned = before["metrics"]["holdout"]["mrr@10"], after["metrics"]["holdout"]["mrr@10"]
    assert tuned > found + 0.01 > before["bm25"]["holdout"]["mrr@10"]
    assert f"{found:.3f}" in text_of(PAGE) and abs(tuned - after_on_the_page()) < 0.03
    shown = done.stdout
    assert shown.index("self._constants._private_networks") < shown.index("self.network_address.is_unspecified")
    assert re.search(r"tensor\(\[\[(1\.0000|0\.9999)\]\]\)$", shown.rstrip())


def after_on_the_page() -> float:
    """MRR@10 after the fine-tuning as the page's table has it."""
    row = next(line for line in text_of(PAGE).splitlines() if line.startswith("| tuned"))
    return float(row.split("|")[2])
