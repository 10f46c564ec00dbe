"""The frame of the project: pinned versions, what an installation holds, and the rules that the folders obey."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODEL_FOLDERS = ("modeling_biencoder", "modeling_llara", "modeling_srlm")
MODEL_FILES = [path for folder in MODEL_FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
ELSEWHERE = ("benchmarks", "tests", "examples", "docs")  # where a file may be longer
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
    extras = ("plots", "sentence-transformers", "mteb", "faiss", "completion", "stores", "docs", "dev")
    assert set(requirements(extras)) <= set(pinned)
    assert pinned["torch"] == "2.13.0"
    for name in ("constraints.txt", "constraints-min.txt"):
        assert not re.search(r"[@/+]|://", "".join(pins(name).values()))


def test_lower_bounds_are_the_versions_that_test_min_runs():
    oldest = pins("constraints-min.txt")
    for name, bound in requirements(("plots", "sentence-transformers")).items():
        installed, allowed = ([*map(int, version.split(".")), 0, 0][:3] for version in (oldest[name], bound))
        assert installed == allowed, f"{name}: bound {bound}, tested {oldest[name]}"


def test_the_extras_are_told_of():
    told = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "docs" / "install.md").read_text(), flags=re.MULTILINE)
    assert sorted(told) == sorted(PROJECT["optional-dependencies"])


def test_what_the_extra_of_development_leaves_out_is_told():
    extras, held = PROJECT["optional-dependencies"], ["dev"]
    for extra in held:
        inside = re.findall(r"lookback\[(.*?)\]", " ".join(extras[extra]))
        held += ",".join(inside).split(",") if inside else []
    (row,) = re.findall(r"^\| `dev` \|.*", (ROOT / "docs" / "install.md").read_text(), flags=re.MULTILINE)
    assert re.findall(r"`([\w-]+)`", row) == ["dev", *sorted(set(extras) - set(held))]


def test_nobody_is_told_to_install_what_another_calls_lookback():
    """The registry's package of that name is not this one: an extra is told of with where it comes from."""
    folders = [path.parent for path in ROOT.glob("*/__init__.py")] + [ROOT / "examples"]
    files = [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*"))]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".md", ".jinja", ".ipynb")}
    assert [path for path, text in texts.items() if re.search(r"lookback\[[\w,-]+\](?! @)", text)] == []


def test_every_package_says_that_it_is_typed():
    packages = {path.parent for path in ROOT.glob("*/__init__.py")} - {
        ROOT / "tests",
        ROOT / "benchmarks",
        ROOT / "docs",
    }
    assert {path.name for path in packages} == {*MODEL_FOLDERS, "trainers", "hub_cards"}
    assert all((package / "py.typed").is_file() for package in packages)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-data"]["*"] == ["py.typed"]


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


# What may import what in trainers/: a room its own files and the rooms of every later line.
LAYERS = (
    ("demo",), ("commands",), ("mining", "feedback", "perplexity", "needle"), ("biencoder", "llara", "srlm"),
    ("base", "planning"), ("models", "retrieval"), ("jobs", "pages"), ("data", "embedded", "metric_modules"),
)  # fmt: skip
RANKS = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
METHODS = LAYERS[3]
# Rows are read by the method that they are for: mining's by the bi-encoder's, the chats of a perplexity by the LM's.
READS = {("mining", "trainers.biencoder.rows"), ("perplexity", "trainers.srlm.rows")}


def imports(path: Path) -> set[str]:
    """The modules that a file imports, inside functions too, relative ones by their whole names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from ..base import cards` imports base.cards, `from .cards import x` nothing that is a file
            below = (f"{module}.{alias.name}" for alias in node.names)
            modules = {name for name in below if (ROOT / Path(*name.split("."))).with_suffix(".py").is_file()}
            found |= modules or {module}
    return found


def is_downward(room: str, name: str) -> bool:
    """Whether a file of this room may import this module."""
    other = name.split(".")[1] if name.startswith("trainers.") else room
    if other in METHODS and room in LAYERS[2]:
        return (room, name) in READS
    return other == room or RANKS.get(other, -1) > RANKS[room]


def test_the_layers_of_trainers_go_one_way():
    paths = [path.relative_to(ROOT) for path in (ROOT / "trainers").glob("*/**/*.py")]
    upward = {
        f"{path}: {name}" for path in paths for name in imports(ROOT / path) if not is_downward(path.parts[1], name)
    }
    assert upward == set()


def test_every_module_of_trainers_lies_in_a_room_of_the_layers():
    assert {path.name for path in (ROOT / "trainers").glob("*.py")} == {"__init__.py", "cli.py", "public.py"}
    assert {path.parent.name for path in (ROOT / "trainers").glob("*/__init__.py")} == set(RANKS)


def test_hub_cards_is_the_ground_floor_and_no_family_imports_another():
    for folder in ("hub_cards", *MODEL_FOLDERS):
        others = {*MODEL_FOLDERS, "trainers", "benchmarks", "tests"} - {folder}
        for path in sorted((ROOT / folder).rglob("*.py")):
            assert not {name.split(".")[0] for name in imports(path)} & others, path


def test_no_test_file_imports_another():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if "fixtures" not in path.relative_to(ROOT / "tests").parts:
            ours = {name for name in imports(path) if name.split(".")[0] == "tests"}
            assert all(f"{name}.".startswith("tests.support.") for name in ours), f"{path}: {ours}"


@pytest.mark.parametrize(("folders", "limit"), [((*MODEL_FOLDERS, "trainers", "hub_cards"), 250), (ELSEWHERE, 400)])
def test_no_file_holds_two_things(folders, limit):
    """By its length, as nothing else is measured so easily."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if "fixtures" not in path.parts]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert len(lengths) > 5
    assert {name: length for name, length in lengths.items() if length > limit} == {}


IMPORTED = """
import importlib, sys
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationMixin, PreTrainedModel
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""


def test_an_import_costs_what_transformers_costs():
    """Nothing that a model of transformers does not need, so that a start takes no longer than with theirs."""
    command = [sys.executable, "-c", IMPORTED, *MODEL_FOLDERS]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(found) == sorted(MODEL_FOLDERS)
