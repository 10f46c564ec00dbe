"""The files of examples/ that start a training on several GPUs: read by those who read them, and started on a CPU."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from safetensors.torch import load_file

from tests.support import ROOT
from tests.support.page_shell import fill
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
    shown = "".join(
        block.text for page in (PAGE, "docs/biencoder.md", "docs/llara.md", "README.md") for block in blocks_of(page)
    )
    for file in EXAMPLES.iterdir():
        if file.suffix in (".yaml", ".json"):
            assert f"examples/{file.name}" in shown, file


SMALL = "--max_steps 2 --per_device_train_batch_size 2 --sub_batch_size 2 --save_strategy no --use_cpu true"


def line_of(page_words: str) -> str:
    """The one line of the page that holds these words."""
    (line,) = [line for block in blocks_of(PAGE) for line in block.text.splitlines() if page_words in line]
    return line


def start(line: str, folder: Path, **variables: str) -> subprocess.Popen:
    """A line of the page on this machine's CPU, cut to two steps."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", **variables,
    }  # fmt: skip
    return subprocess.Popen(
        f"{line} {SMALL}", shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def ended(*running: subprocess.Popen) -> None:
    said = [one.communicate(timeout=600)[0] for one in running]
    assert all(one.returncode == 0 for one in running), "\n".join(said)[-6000:]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with all that the lines name."""
    fill(tmp_path, monkeypatch)
    (tmp_path / "runs/data").mkdir(parents=True)
    (tmp_path / "rows.jsonl").rename(tmp_path / "runs/data/train.jsonl")
    return tmp_path


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_the_lines_of_two_machines_train_together(place):
    """Two launchers of one process each, which meet on this machine by gloo."""
    port, running = free_port(), []
    for rank in (0, 1):
        line = line_of(f"torchrun --nnodes 2 --node_rank {rank}").replace("10.0.0.1", "127.0.0.1")
        running.append(
            start(re.sub(r"--nproc_per_node \d+", "--nproc_per_node 1", line.replace("29500", str(port))), place)
        )
    ended(*running)
    assert json.loads((place / "runs/two_nodes/trainer_state.json").read_text())["global_step"] == 2


@pytest.mark.slow
def test_deepspeed_trains_the_same_weights(place):
    pytest.importorskip("deepspeed")
    line = line_of("--deepspeed").replace("--nproc_per_node 8", "--nproc_per_node 2")
    ended(start(line, place, DS_ACCELERATOR="cpu"))
    plain = line.replace("runs/zero2", "runs/plain").replace("--deepspeed examples/deepspeed_zero2.json", "")
    ended(start(plain, place))
    found, expected = (load_file(place / f"runs/{name}/adapter_model.safetensors") for name in ("zero2", "plain"))
    assert max(weight.abs().max() for name, weight in expected.items() if "lora_B" in name) > 5e-5  # it was trained
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=5e-6, rtol=0)
