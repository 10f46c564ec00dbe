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
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from safetensors.torch import load_file
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from tests.support import ROOT
from tests.support.page_shell import fill
from tests.support.pages import blocks_of
from tests.support.tiny import tiny_backbone
from trainers import BiEncoderTrainingArguments
from trainers.commands.finetune import ARGUMENTS

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
    known = {name for kind in ARGUMENTS for name in kind.__dataclass_fields__}
    assert set(settings) <= known
    assert settings["sub_batch_size"] < settings["per_device_train_batch_size"]


class TrainersReader(HfTrainerDeepSpeedConfig, HfDeepSpeedConfig):
    """transformers' reader, which on a machine without DeepSpeed lacks the base class that reads the file."""

    def __init__(self, path: Path):
        HfDeepSpeedConfig.__init__(self, str(path))
        self._dtype, self.mismatches = None, []


@pytest.mark.parametrize("stage", [2, 3])
def test_the_files_of_deepspeed_are_read(tmp_path, stage):
    config = TrainersReader(EXAMPLES / f"deepspeed_zero{stage}.json")
    assert (config.is_zero2(), config.is_zero3(), config.is_offload()) == (stage == 2, stage == 3, False)
    settings = {"bf16": True, "use_cpu": True, "gradient_accumulation_steps": 4, "max_grad_norm": 0.5}
    args = BiEncoderTrainingArguments(str(tmp_path), per_device_train_batch_size=3, **settings)
    config.trainer_config_process(args)
    config.trainer_config_finalize(args, tiny_backbone(), 10)
    assert "auto" not in json.dumps(config.config)
    found = {name: config.config[name] for name in ("train_batch_size", "gradient_clipping", "bf16")}
    assert found == {"train_batch_size": 12, "gradient_clipping": 0.5, "bf16": {"enabled": True}}
    # What is gathered when a model is saved; without it the Trainer saves nothing whole.
    assert stage == 2 or config.is_true("zero_optimization.stage3_gather_16bit_weights_on_model_save")


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_knows_every_name_in_its_files(stage):
    reader = pytest.importorskip("deepspeed.runtime.zero.config")
    given = json.loads((EXAMPLES / f"deepspeed_zero{stage}.json").read_text())
    assert reader.get_zero_config(given).stage == stage
    given["zero_optimization"]["stage3_prefetch_bucket"] = 1
    with pytest.raises(ValueError, match="stage3_prefetch_bucket"):
        reader.get_zero_config(given)


def test_the_file_of_fsdp_is_one(tmp_path):
    args = BiEncoderTrainingArguments(
        str(tmp_path), fsdp=True, fsdp_config=str(EXAMPLES / "fsdp.json"), use_cpu=True, report_to="none"
    )
    plugin = FullyShardedDataParallelPlugin(**args.fsdp_plugin_args)
    assert plugin.fsdp_version == 2 and plugin.activation_checkpointing and plugin.reshard_after_forward
    assert set(json.loads((EXAMPLES / "fsdp.json").read_text())) <= {*args.fsdp_plugin_args}


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
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_trains_the_same_weights(place, stage):
    pytest.importorskip("deepspeed")
    name = f"zero{stage}"
    line = line_of(f"deepspeed_{name}").replace("--nproc_per_node 8", "--nproc_per_node 2")
    shared = line if stage == 2 else line.replace("-m trainers.cli", "-m tests.support.zero_on_cpu")
    ended(start(shared, place, DS_ACCELERATOR="cpu"))
    plain = line.replace(f"runs/{name}", "runs/plain").replace(f"--deepspeed examples/deepspeed_{name}.json", "")
    ended(start(plain, place))
    found, expected = (load_file(place / f"runs/{name}/adapter_model.safetensors") for name in (name, "plain"))
    assert max(weight.abs().max() for name, weight in expected.items() if "lora_B" in name) > 5e-5  # it was trained
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=5e-6, rtol=0)
