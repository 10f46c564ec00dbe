"""The files of examples/ that start a training on several GPUs: read by those who read them, and started on a CPU."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.deepspeed import HfDeepSpeedConfig

from tests.support import ROOT
from tests.support.page_shell import calls_of, fill
from tests.support.pages import blocks_of
from trainers import BiEncoderTrainingArguments
from trainers.commands.finetune import FinetuneModelArguments
from trainers.commands.training import LoraArguments, MixtureDataArguments

PAGE = "docs/recipes.md"
EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize(("name", "machines", "processes"), [("eight_gpus", 1, 8), ("two_nodes", 2, 16)])
def test_accelerate_reads_its_files(name, machines, processes, monkeypatch):
    config = load_config_from_file(str(EXAMPLES / f"{name}.yaml"))
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert config.distributed_type == DistributedType.MULTI_GPU and config.mixed_precision == "bf16"
    arguments = [
        "--config_file",
        str(EXAMPLES / f"{name}.yaml"),
        "--machine_rank",
        str(machines - 1),
        "-m",
        "trainers.cli",
    ]
    found, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    assert found.multi_gpu and found.num_processes == processes and found.machine_rank == machines - 1


def test_the_settings_are_arguments_of_the_command():
    settings = yaml.safe_load((EXAMPLES / "one_gpu.yaml").read_text())
    kinds = (FinetuneModelArguments, MixtureDataArguments, LoraArguments, BiEncoderTrainingArguments)
    known = {name for kind in kinds for name in kind.__dataclass_fields__}
    assert set(settings) <= known
    assert settings["sub_batch_size"] < settings["per_device_train_batch_size"]


def test_the_file_of_deepspeed_is_one(tmp_path):
    config = HfDeepSpeedConfig(str(EXAMPLES / "deepspeed_zero2.json"))
    assert config.is_zero2() and not config.is_zero3() and not config.is_offload()
    left_open = [
        key for key, value in json.loads((EXAMPLES / "deepspeed_zero2.json").read_text()).items() if value == "auto"
    ]
    # What transformers fills in from the training arguments.
    assert set(left_open) == {
        "gradient_clipping",
        "gradient_accumulation_steps",
        "train_micro_batch_size_per_gpu",
        "train_batch_size",
    }


def test_every_file_of_examples_is_on_a_page():
    shown = "".join(block.text for page in (PAGE, "docs/biencoder.md", "README.md") for block in blocks_of(page))
    for file in EXAMPLES.iterdir():
        if file.suffix in (".yaml", ".json"):
            assert f"examples/{file.name}" in shown, file


def lines_of(launcher: str) -> list[str]:
    return [line for block in blocks_of(PAGE, "bash") for line in block.text.splitlines() if line.startswith(launcher)]


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1"}  # fmt: skip


@pytest.mark.slow
def test_the_lines_of_two_machines_train_together(tmp_path, monkeypatch):
    """Two launchers of one process each, which meet on this machine: by gloo, in place of two machines."""
    fill(tmp_path, monkeypatch)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = [line for line in lines_of("torchrun") if "--nnodes" in line]
    assert len(lines) == 2 and all(words[0] == "torchrun" for line in lines for words in calls_of(line, tmp_path))
    (tmp_path / "runs/data").mkdir(parents=True)
    (tmp_path / "rows.jsonl").rename(tmp_path / "runs/data/train.jsonl")
    small = " --max_steps 1 --per_device_train_batch_size 2 --sub_batch_size 2 --use_cpu true"
    running = []
    for line in lines:
        line = line.replace("10.0.0.1", "127.0.0.1").replace("29500", str(port))
        line = re.sub(r"--nproc_per_node \d+", "--nproc_per_node 1", line) + small
        running.append(subprocess.Popen(line, shell=True, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True))  # fmt: skip
    said = [one.communicate(timeout=600)[0] for one in running]
    assert all(one.returncode == 0 for one in running), "\n".join(said)[-4000:]
    state = json.loads((tmp_path / "runs/two_nodes/trainer_state.json").read_text())
    assert state["global_step"] == 1
