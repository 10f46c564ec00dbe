"""The frame of the project: pinned versions, what an installation holds, and the rules that the folders obey."""

import ast
import re
import sys
import tomllib

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODEL_FOLDERS = ("modeling_biencoder", "modeling_llara", "modeling_srlm")
MODEL_FILES = [path for folder in MODEL_FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
SOURCES = [
    path
    for folder in (*MODEL_FOLDERS, "trainers", "hub_cards", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# What the code of a repo on the Hub may import where it stands, and what every user of transformers has besides.
# transformers itself cannot be imported without safetensors.
AT_THE_TOP = {"torch", "transformers", "safetensors", *sys.stdlib_module_names}
INSIDE = {"huggingface_hub", "numpy", "safetensors", "tokenizers", "tqdm"}


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def requirements(extras: tuple[str, ...]) -> dict[str, str]:
    """Distribution -> lower bound, of the dependencies and of the extras."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    found = (re.match(r"([\w-]+)>=([\w.]+)$", text) for text in texts if not text.startswith("lookback["))
    return {match[1]: match[2] for match in found}


def test_every_requirement_is_pinned_and_nothing_names_a_place():
    pinned = pins("constraints.txt")
    assert set(requirements(("plots", "sentence-transformers", "mteb", "faiss", "dev"))) <= set(pinned)
    assert pinned["torch"] == "2.13.0"
    for name in ("constraints.txt", "constraints-min.txt"):
        assert not re.search(r"[@/+]|://", "".join(pins(name).values()))


def test_lower_bounds_are_the_versions_that_test_min_runs():
    oldest = pins("constraints-min.txt")
    for name, bound in requirements(("plots", "sentence-transformers")).items():
        installed, allowed = ([*map(int, version.split(".")), 0, 0][:3] for version in (oldest[name], bound))
        assert installed == allowed, f"{name}: bound {bound}, tested {oldest[name]}"


def test_the_changelog_has_the_version():
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_a_model_file_can_travel(path):
    """transformers counts every import outside a `try`, in functions too, as a requirement of the model's users."""
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    packages = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    packages |= {node.module for node in top if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert {package.split(".")[0] for package in packages} <= AT_THE_TOP
    assert set(get_imports(path)) <= AT_THE_TOP | INSIDE
    for sibling in get_relative_imports(path):
        assert (path.parent / f"{sibling}.py").is_file(), f"{path.name} imports .{sibling}"


def test_names_of_model_files_are_unique():
    names = [path.name for path in MODEL_FILES if path.name != "__init__.py"]
    assert len(names) == len(set(names)) > 0
    for path in MODEL_FILES:
        assert path.name == "__init__.py" or path.stem.endswith(path.parent.name.removeprefix("modeling"))


def test_no_file_is_longer_than_400_lines():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
