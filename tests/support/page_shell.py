"""Runs what a page shows, in a folder of its own: command lines as bash reads them, the models and data small.

bash gets programs in place of ours that note what they were called with; the calls are then made in this process,
on tiny models under the names of those of the Hub, and with a training cut to a step.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from examples.make_data import make_data
from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from tests.support import ROOT
from tests.support.teachers import save_cross_encoder
from tests.support.tiny import TEXT, tiny_backbone, tiny_tokenizer
from trainers.cli import run, switched
from trainers.embedded.corpus import CodePair

# Programs that the pages call. `python -c ...` is run as it is: a shell variable is made of what it prints.
PROGRAMS = ("lookback", "python", "torchrun", "accelerate", "make", "pip", "lm_eval", "transformers")
_NOTE = """#!/bin/sh
[ "$(basename "$0") $1" = "python -c" ] && exec "{python}" "$@"
{{ printf '%s\\n' "$(basename "$0")"; for one in "$@"; do printf '%s\\n' "$one"; done; echo; }} >> "{calls}"
"""
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
DECODERS = (
    "trainers/embedded/backbone", "backbone", "Qwen/Qwen3-0.6B", "mistralai/Mistral-7B-v0.1",
    "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-3.2-1B",
)  # fmt: skip
PAIRS = [CodePair(f"m{i}", f"docstring number {i} of the lantern", f"def f{i}():\n    return {i}") for i in range(24)]
TRAINING = {
    "max_steps": "1", "per_device_train_batch_size": "2", "symmetric_batch_size": "2", "sub_batch_size": "2",
    "gradient_accumulation_steps": "1", "logging_steps": "1", "eval_steps": "1", "save_steps": "1",
    "report_to": "none", "disable_tqdm": "true", "use_cpu": "true",
}  # fmt: skip
# What makes a call small: for the arguments that it gives already, and for every call.
SMALLER = {
    "perplexity": {"max_documents": "1", "max_length": "700", "scored_tokens": "64"},
    "needle": {"lengths": "900", "depths": "50", "samples": "1"},
    "generate": {"max_new_tokens": "4"},
}
ALWAYS = ("max_steps", "per_device_train_batch_size", "report_to", "disable_tqdm", "use_cpu", "logging_steps")


def fill(folder: Path, monkeypatch: pytest.MonkeyPatch, page: str = "") -> None:
    """Puts everything into `folder` that the pages name: models, data, a virtual environment's programs.

    For the page of MTEB its tasks, too: of texts that are made here, under the names of the Hub's.
    """
    if page == "docs/mteb.md":
        monkeypatch.setenv("MTEB_CACHE", str(folder / ".mteb"))
        import_module("tests.support.mteb").stand_in(monkeypatch)
    shutil.copytree(_models().name, folder, dirs_exist_ok=True)
    (folder / "examples").symlink_to(ROOT / "examples")
    _write_data(folder, monkeypatch)
    programs(folder)


@cache
def _models() -> TemporaryDirectory:
    """A folder with the models of every page, which are made once."""
    place = TemporaryDirectory()
    folder, tokenizer = Path(place.name), tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    for name in DECODERS:
        tiny_backbone("qwen" if "Qwen" in name else "llama").save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    tiny_backbone("bert", lm_head=False).save_pretrained(folder / "BAAI/bge-base-en")
    tokenizer.save_pretrained(folder / "BAAI/bge-base-en")
    save_cross_encoder(folder / "BAAI/bge-reranker-base")
    backbone = str(folder / "backbone")
    BiEncoderModel.from_backbone(backbone).save_pretrained(folder / "runs/biencoder")
    LlaraForPreTraining.from_backbone(backbone).save_pretrained(folder / "runs/llara-7b")
    return place


def programs(folder: Path) -> None:
    """The programs of a virtual environment, which note what they are called with."""
    place = folder / ".venv/bin"
    place.mkdir(parents=True)
    for name in PROGRAMS:
        (place / name).write_text(_NOTE.format(python=sys.executable, calls=folder / ".calls"))
        (place / name).chmod(0o755)


def _write_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.make_data.code_pairs", lambda split: PAIRS[:6] if split == "holdout" else PAIRS[4:])
    for name in ("nanobeir", "other"):
        make_data(folder / name)
    (folder / "other/holdout").rename(folder / "nanobeir/other")
    (folder / "long.txt").write_text(TEXT * 20, encoding="utf-8")
    (folder / "wiki-folder").mkdir()
    (folder / "wiki-folder/one.txt").write_text(TEXT * 20, encoding="utf-8")
    rows = [
        {"query": f"query {i}", "pos": [f"passage {i}"], "neg": [f"other {i}", f"more {i}"], "answers": ["yes"]}
        for i in range(8)
    ]
    for name in ("msmarco", "mined", "hard", "qa", "rows"):
        _write_rows(folder / f"{name}.jsonl", rows)
    _write_rows(
        folder / "sts.jsonl", [{"sentence1": f"a {i}", "sentence2": f"b {i}", "score": i / 8} for i in range(8)]
    )
    _write_rows(folder / "heldout.jsonl", [{"text": TEXT * 4}])
    _write_rows(
        folder / "chats.jsonl", [{"query": "And?", "history": ["a", "b"], "answers": ["the lantern"], "task": "chat"}]
    )
    (folder / "mixture.yaml").write_text(yaml.safe_dump([{"data": "msmarco.jsonl", "instruction": "Find it."}]))


def _write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def calls_of(text: str, folder: Path) -> list[list[str]]:
    """What a block of command lines calls, word by word, as bash reads it."""
    noted = folder / ".calls"
    noted.unlink(missing_ok=True)
    path = f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", text], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return [call.split("\n") for call in noted.read_text().rstrip("\n").split("\n\n")] if noted.exists() else []


def call(words: list[str]) -> None:
    """Makes a call of `calls_of` in this process."""
    program, *arguments = words
    if program == "make":
        targets = (ROOT / "Makefile").read_text()
        assert all(f"\n{target}:" in targets for target in arguments if "=" not in target), words
    elif program == "python" and arguments[0] == "examples/make_data.py":
        make_data(Path(arguments[1]))
    elif program in ("torchrun", "accelerate"):
        program, arguments = "lookback", started(words)
        if "--fsdp" in arguments:  # for several processes alone: tests/test_launch_lines.py starts them
            return
    if program == "lookback" and not arguments[-1].startswith("--help"):  # that ends the process
        run(smaller(switched(arguments)))


def started(words: list[str]) -> list[str]:
    """What a launcher starts; its own arguments have to be such as it takes."""
    parser: ArgumentParser = get_args_parser() if words[0] == "torchrun" else launch_command_parser()
    found = parser.parse_args(words[1:] if words[0] == "torchrun" else words[2:])
    assert found.module and found.training_script == "trainers.cli", words
    return list(found.training_script_args)


def smaller(arguments: list[str]) -> list[str]:
    """A command's arguments, and behind them, where the last one counts, those that make it small."""
    command = arguments[0]
    training = command in ("finetune", "pretrain", "train-lm")
    given = {one.removeprefix("--").replace("-", "_") for one in arguments if one.startswith("--")}
    changed = TRAINING if training else SMALLER.get(command, {})
    wanted = {name: value for name, value in changed.items() if name in given or (training and name in ALWAYS)}
    if command == "generate":
        wanted = changed
    if command == "pretrain":
        wanted["streaming"] = "true"
    return [*arguments, *(word for name, value in wanted.items() for word in (f"--{name}", value))]


def runner_of(page: str) -> Callable[[str], None]:
    """Runs a page's Python blocks one after the other, with the same names; large numbers are made smaller."""
    names: dict[str, object] = {"__name__": page}

    def run_block(text: str) -> None:
        for large, small in (
            ("context_window_size=2048", "context_window_size=256"),
            ("max_new_tokens=1000", "max_new_tokens=70"),
        ):
            text = text.replace(large, small)
        exec(compile(text, page, "exec"), names)

    return run_block


def words_of_spans(text: str) -> Iterator[list[str]]:
    """The command lines that stand in a sentence, between backticks."""
    for span in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)):
        words = span.replace("\n", " ").split()
        while words and words[0] in ("accelerate", "torchrun", "launch", "-m"):
            words.pop(0)
        if words and words[0].rpartition("/")[2] in ("lookback", "trainers.cli") and len(words) > 2:
            yield words[1:]
