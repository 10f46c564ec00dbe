"""What the families share without importing each other: each has its own copy, and the copies are the same."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["format", "repository"])
@pytest.mark.parametrize("family", ["llara", "srlm"])
def test_the_copies_are_the_same(family: str, name: str) -> None:
    original = ROOT / "modeling_biencoder" / f"{name}_biencoder.py"
    copy = ROOT / f"modeling_{family}" / f"{name}_{family}.py"
    assert copy.read_text() == original.read_text(), f"edit {original.name} and copy it to {copy.name}"
