"""docs/search.md as it stands, with the real all-MiniLM-L6-v2: its commands, its Python, each tool that is there."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from tests.support import ROOT, quick_first
from tests.support.pretrained import minilm
from trainers.cli import COMMANDS

PAGE = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
TOOLS = {"faiss": "faiss", "datasets": "faiss", "LanceDB": "lancedb", "Qdrant": "qdrant_client"}


def blocks(language: str, text: str = PAGE) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for kind, block in found if kind == language]


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the commands of the page leave behind."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "sentence-transformers").mkdir()
    (folder / "sentence-transformers" / "all-MiniLM-L6-v2").symlink_to(minilm())
    (folder / "corpus.jsonl").write_text(blocks("json")[0], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in blocks("", section("Encode"))[0].splitlines():
            run(line)
    return folder


def run(line: str) -> None:
    program, command, *arguments = shlex.split(line)
    assert program == "lookback"
    import_module(COMMANDS[command][0]).main(arguments)


@pytest.mark.slow
def test_every_index_finds_the_same(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for line in blocks("", section("Search"))[0].splitlines():
        # The model is a link to another place here.
        run(f"{line} --model sentence-transformers/all-MiniLM-L6-v2")
        printed = [one for one in capsys.readouterr().out.splitlines() if not one.startswith("#")]
        assert printed[0].startswith("time.sleep\t"), line
        if "open a tar file" in line:
            assert printed[2].startswith("tarfile.open\t")


@pytest.mark.slow
@pytest.mark.parametrize("tool", quick_first([None, *TOOLS]))
def test_the_recipes_find_it_too(folder, tmp_path, monkeypatch, capsys, tool):
    if tool is not None:
        pytest.importorskip(TOOLS[tool])
    monkeypatch.chdir(tmp_path)
    for name in ("corpus.parquet", "sentence-transformers"):
        (tmp_path / name).symlink_to(folder / name)
    namespace: dict = {}
    exec(compile(blocks("python", section("Search"))[0], "Search", "exec"), namespace)
    printed = capsys.readouterr().out
    assert printed.startswith("time.sleep ") and namespace["numbers"][:, 0].tolist() == [1, 0]
    if tool is None:
        return
    exec(compile(blocks("python", section(tool))[0], tool, "exec"), namespace)
    found = re.findall(r"'([a-z]+\.[a-z]+)'", capsys.readouterr().out)
    assert found[0] == "time.sleep"
    if tool == "faiss":
        assert found[2] == "tarfile.open"
