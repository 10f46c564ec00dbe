"""What the families share without importing each other: each has its own copy, made from one source."""

import re

import pytest

from hub_cards import copies
from tests.support import ROOT


@pytest.mark.parametrize("path", copies.copies(), ids=lambda path: path.name)
def test_no_copy_is_stale(path):
    assert path.read_text(encoding="utf-8") == copies.copies()[path], 'run "make copies"'


def test_a_stale_copy_is_found_and_written(tmp_path, monkeypatch, capsys):
    sources = tmp_path / "hub_cards" / "travelling"
    sources.mkdir(parents=True)
    (sources / "one.py").write_text('"""One."""\n\nfrom .two import three\n')
    for family in copies.FAMILIES:
        (tmp_path / f"modeling_{family}").mkdir()
    (tmp_path / "modeling_biencoder" / "four_biencoder.py").write_text("from .one_biencoder import three\n")
    monkeypatch.setattr(copies, "SOURCES", sources)
    monkeypatch.setattr(copies, "FROM_A_FAMILY", (("four", "biencoder", "srlm"),))
    monkeypatch.setattr("sys.argv", ["copies", "--check"])
    with pytest.raises(SystemExit, match=r"one_biencoder\.py is stale: run \"make copies\""):
        copies.main()
    assert not (tmp_path / "modeling_srlm" / "one_srlm.py").exists()
    monkeypatch.setattr("sys.argv", ["copies"])
    copies.main()
    made = (tmp_path / "modeling_srlm" / "one_srlm.py").read_text()
    assert made.startswith("# Copied from hub_cards/travelling/one.py") and "\nfrom .two_srlm import three\n" in made
    made = (tmp_path / "modeling_srlm" / "four_srlm.py").read_text()
    assert made.startswith("# Copied from modeling_biencoder/four_biencoder.py")
    assert made.endswith("\nfrom .one_srlm import three\n")
    assert copies.stale() == []


def test_a_copy_is_imported_by_its_own_family_alone():
    stems = {path.stem for path in copies.copies()}
    for folder in ("trainers", "hub_cards", "benchmarks", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            imported = re.findall(r"modeling_\w+\.(\w+) import", file.read_text(encoding="utf-8"))
            assert not stems & set(imported), file
