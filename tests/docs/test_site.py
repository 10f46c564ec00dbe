"""`make docs` builds: every page is in the navigation, every link leads somewhere, every public name has its place."""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module

import pytest

from tests.support import ROOT
from tests.support.pages import PAGES, text_of

REFERENCE = ("trainers", "modeling_biencoder", "modeling_llara", "modeling_srlm", "hub_cards")


@pytest.mark.parametrize("package", REFERENCE)
def test_every_public_name_has_its_place_in_the_reference(package):
    found = re.findall(rf"^::: {package}\.(\w+)$", text_of(f"docs/api/{package}.md"), flags=re.MULTILINE)
    assert found == import_module(package).__all__


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert not page.startswith("docs/") or f": {page.removeprefix('docs/')}\n" in navigation


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    for name in ("docs", "mkdocs.yml", *REFERENCE):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len([page for page in PAGES if page.startswith("docs/")]) + len(REFERENCE)
    for page in pages:
        assert not re.search(
            r"<(?:script|img|iframe)[^>]+src=\"https?:|<link[^>]+stylesheet[^>]+https?:", page.read_text()
        )
    formulas = (tmp_path / "site/biencoder.html").read_text()
    assert formulas.count("<math ") >= 20 and "arithmatex" not in formulas
    shutil.rmtree(tmp_path / "site")
