"""What the families share without importing each other: each has its own copy, and the copies are the same."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORIGINAL = ROOT / "modeling_biencoder" / "repository_biencoder.py"


@pytest.mark.parametrize("family", ["llara", "srlm"])
def test_the_repository_files_are_the_same(family: str) -> None:
    copy = ROOT / f"modeling_{family}" / f"repository_{family}.py"
    assert copy.read_text() == ORIGINAL.read_text(), f"edit {ORIGINAL.name} and copy it to {copy.name}"
