"""What the pages show runs: Python as it stands, command lines as bash reads them, on small models and data."""

import json
import re

import pytest
import yaml

from tests.support.page_shell import call, calls_of, fill, programs, runner_of, smaller, started, words_of_spans
from tests.support.pages import PAGES, blocks_of, text_of
from trainers.biencoder.entries import mixture_entries
from trainers.cli import switched
from trainers.commands.help import help_of

COMMAND_LANGUAGES = ("bash", "")
# These run as they stand, on the real model: test_quick_start.py and test_search.py.
ON_THE_REAL_MODEL = ("docs/quick_start.md", "docs/search.md")
RUN_HERE = [page for page in PAGES if blocks_of(page) and page not in ON_THE_REAL_MODEL]
WITH_COMMANDS = [page for page in RUN_HERE if blocks_of(page, *COMMAND_LANGUAGES)]
WITH_PYTHON = [page for page in RUN_HERE if blocks_of(page, "python")]
KINDS = {"python", "bash", "yaml", "json", "text", ""}


def test_there_is_something_to_run():
    assert {"README.md", "docs/biencoder.md", "docs/hub.md", "docs/llara.md", "docs/self_retrieval.md"} <= set(
        WITH_PYTHON
    )
    assert len(WITH_COMMANDS) >= 7


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_is_tested_or_says_why_it_is_not(page):
    text = text_of(page)
    assert len(re.findall(r"^```", text, flags=re.MULTILINE)) == 2 * len(blocks_of(page))
    for block in blocks_of(page):
        assert block.language in KINDS, f"{page}: no test runs a block of {block.language!r}"
        assert block.reason is None or len(block.reason.split()) >= 3, f"{page}: say why this is not run: {block.text}"


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_of_a_page_runs_one_block_after_the_other(page, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, monkeypatch, page)
    run_python = runner_of(page)
    for block in blocks_of(page, "python"):
        run_python(block.text)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, monkeypatch, page)
    run_python = runner_of(page)
    for block in blocks_of(page, "python", *COMMAND_LANGUAGES):
        if block.language == "python":
            run_python(block.text)
            continue
        for words in calls_of(block.text, tmp_path):
            call(words)


@pytest.mark.cases(2)
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_arguments_of_the_commands_of_a_page_exist(page, tmp_path):
    programs(tmp_path)
    lines = [words for block in blocks_of(page, *COMMAND_LANGUAGES) for words in calls_of(block.text, tmp_path)]
    commands = [_command(words) for words in lines] + list(words_of_spans(text_of(page)))
    for command, *arguments in map(switched, filter(None, commands)):
        if command.startswith("-"):  # lookback --help
            continue
        known = set(re.findall(r"--[\w-]+", help_of(command, everything=True)))
        given = {f"--{word[2:].partition('=')[0].replace('-', '_')}" for word in arguments if word.startswith("--")}
        assert given <= known | {"--config", "--debug", "--help", "--help_all"}, (command, arguments)


def _command(words):
    if words[0] in ("torchrun", "accelerate"):
        return started(words)
    return words[1:] if words[0] == "lookback" else None


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "json", "yaml")])
def test_settings_and_rows_are_what_they_say(page):
    for block in blocks_of(page, "json"):
        for line in block.text.splitlines() if block.text.count("\n{") else [block.text]:
            json.loads(line)
    for block in blocks_of(page, "yaml"):
        assert yaml.safe_load(block.text)


def test_the_data_sets_of_a_yaml_block_are_read():
    (block,) = blocks_of("docs/biencoder.md", "yaml")
    entries = mixture_entries(yaml.safe_load(block.text))
    assert [entry.name for entry in entries] == ["msmarco", "hard", "sts", "topics"]


def test_a_call_is_made_small_by_what_stands_last():
    words = smaller(["finetune", "--max_steps", "900", "--eval_steps", "50"])
    assert words[:3] == ["finetune", "--max_steps", "900"] and words.index("--eval_steps", 4) > 4
    assert "--save_steps" not in words
