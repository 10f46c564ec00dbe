"""Fixtures of the training commands' tests."""

from pathlib import Path

import pytest

from tests.support.files import write_rows
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, PASSAGES, SENTENCES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved backbone, and data for each of the three methods."""
    tiny_backbone("llama").save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    for name, rows in {"pairs": PAIRS, "passages": PASSAGES}.items():
        write_rows(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "text.txt").write_text(" ".join(SENTENCES) * 8)
    return tmp_path
