"""Every line of the documentation that starts several processes does so as it stands, on tiny models and data.

Two processes in place of eight, and one step of training: nothing else is changed.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from modeling_llara import LlaraForPreTraining
from tests.support import ROOT
from tests.support.beir import write_beir
from tests.support.feedback import MANY
from tests.support.files import write_rows
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, SENTENCES

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.yaml")])
LAUNCHERS = ("torchrun ", "accelerate launch ")
ELSEWHERE = r"--nnodes|--machine_rank|--deepspeed"  # run by tests/docs
# What a line says of how many there are -> two.
NUMBER = re.compile(r"(--nproc_per_node|--num_processes)[ =]\d+")
BACKBONES = {
    "meta-llama/Llama-3.2-1B": "llama", "meta-llama/Llama-2-7b-hf": "llama", "meta-llama/Llama-2-7b-chat-hf": "llama",
    "mistralai/Mistral-7B-v0.1": "mistral", "BAAI/bge-base-en": "bert",
    "Qwen/Qwen3-0.6B": "qwen",
}  # fmt: skip


def launch_lines(page: Path) -> Iterator[str]:
    """The commands of a page's blocks, and of a settings file's comments, that begin with a launcher."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        line = re.sub(r"\s+#.*$", "", line.removeprefix("#").strip()) if page.suffix == ".yaml" else line
        if line.startswith(LAUNCHERS) and not re.search(ELSEWHERE, line):
            yield line


def stand_ins(folder: Path) -> None:
    """Small models and data under the names that the lines have."""
    for name, family in BACKBONES.items():
        tiny_backbone(family, lm_head=family != "bert").save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    llara = LlaraForPreTraining.from_backbone(tiny_backbone("llama"), tiny_tokenizer())
    llara.save_pretrained(folder / "runs" / "llara-7b")
    rows = [{**row, "instruction": "Find it."} for row in PAIRS] * 4
    for name in ("msmarco.jsonl", "mined.jsonl", "runs/data/train.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_rows(folder / name, rows)
    write_rows(folder / "qa.jsonl", MANY)
    write_rows(folder / "heldout.jsonl", [{"text": ". ".join(SENTENCES).title() + "."}] * 4)
    (folder / "mixture.yaml").write_text(yaml.safe_dump([{"data": "msmarco.jsonl", "instruction": "Find it."}]))
    (folder / "wiki-folder").mkdir()
    for number in range(4):
        (folder / "wiki-folder" / f"{number}.txt").write_text(". ".join(SENTENCES * 20).title() + ".")
    for name in ("runs/data/holdout", "nanobeir/one", "nanobeir/two"):
        (folder / name).mkdir(parents=True)
        write_beir(folder / name)
    for name in ("trainers", "examples"):
        (folder / name).symlink_to(ROOT / name)


def start(line: str, folder: Path) -> str:
    """What a line printed, run by two processes."""
    line = NUMBER.sub(r"\1 2", line)
    if not re.search(r"trainers\.cli (score|mine|encode|evaluate|perplexity)", line):
        line += " --max_steps 1 --report_to none"
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    ended = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, f"{line}\n{ended.stdout}\n{ended.stderr[-4000:]}"
    return ended.stdout


def test_there_are_such_lines_and_none_that_starts_one_process():
    lines = [line for page in PAGES for line in launch_lines(page)]
    assert len(lines) >= 8
    for line in lines:
        assert NUMBER.search(line) and "-m trainers.cli " in line
        assert line.startswith("torchrun ") or "--multi_gpu" in line


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(launch_lines(page))], ids=lambda page: page.name)
def test_the_lines_start_two_processes(page: Path, tmp_path: Path):
    stand_ins(tmp_path)
    for line in launch_lines(page):
        expected = r"2 processes(, [\d,]+ \w+ a step)?\n"
        assert re.match(expected, start(line, tmp_path)), line
