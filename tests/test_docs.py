"""The Python that the documentation shows runs, on tiny models in place of those of the Hub."""

import re

import pytest
import yaml

from modeling_biencoder import BiEncoderModel
from tests.support import ROOT
from tests.support.tiny import TEXT, tiny_backbone, tiny_tokenizer
from trainers.biencoder.entries import mixture_entries
from trainers.commands.help import help_of

TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
SMALLER = {"context_window_size=2048": "context_window_size=256", "max_new_tokens=1000": "max_new_tokens=70"}


PAGES = ["docs/self_retrieval.md", "docs/llara.md", "docs/biencoder.md", "docs/hub.md"]


def blocks_of(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for kind, block in found if kind == language]


@pytest.mark.parametrize("name", PAGES)
def test_the_blocks_of_a_page_run_one_after_the_other(name, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    for folder in (tmp_path / "Qwen" / "Qwen3-0.6B", tmp_path / "backbone"):
        tiny_backbone("qwen").save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    BiEncoderModel.from_backbone(str(tmp_path / "backbone")).save_pretrained(tmp_path / "runs" / "biencoder")
    (tmp_path / "long.txt").write_text(TEXT * 20, encoding="utf-8")
    blocks = blocks_of(name, "python")
    assert len(blocks) >= 3
    namespace: dict = {}
    for block in blocks:
        for text, smaller in SMALLER.items():
            block = block.replace(text, smaller)
        exec(compile(block, name, "exec"), namespace)


@pytest.mark.parametrize("name", [*PAGES, "docs/install.md"])
def test_the_arguments_of_the_commands_of_a_page_exist(name):
    lines = "".join(blocks_of(name, "")).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^lookback|bin/lookback|trainers\.cli) ([a-z-]+)( .*)", line) for line in lines]
    commands = [match.groups() for match in found if match]
    assert commands
    for command, arguments in commands:
        known = set(re.findall(r"--[\w-]+", help_of(command, everything=True)))
        assert set(re.findall(r"(?<!\S)--[\w-]+", arguments)) <= known, (command, arguments)


def test_the_data_sets_of_a_yaml_block_are_read():
    (block,) = blocks_of("docs/biencoder.md", "yaml")
    entries = mixture_entries(yaml.safe_load(block))
    assert [entry.name for entry in entries] == ["msmarco", "hard", "sts", "topics"]
