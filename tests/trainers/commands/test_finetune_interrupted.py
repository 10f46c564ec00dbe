"""`torchrun` of `lookback finetune` on two processes: killed and run again, it ends where it would have."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.support import ROOT
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS

STEPS, SAVE_STEPS = 48, 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A backbone with dropout, rows, and a configuration that checkpoints often."""
    backbone = tiny_backbone("llama")
    backbone.config.attention_dropout = 0.1
    backbone.save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    rows = [{**row, "query": f"{row['query']} {i}"} for i in range(3) for row in PAIRS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "model": str(tmp_path / "backbone"), "train_data": str(tmp_path / "rows.jsonl"), "train_group_size": 3,
        "max_steps": STEPS, "save_steps": SAVE_STEPS, "save_total_limit": 2, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2, "sub_batch_size": 3, "symmetric_weight": 0.5, "temperature": 0.1,
        "learning_rate": 1e-3, "report_to": "none", "use_cpu": True, "resume_from_checkpoint": "last",
        "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def start(folder: Path, output: str) -> subprocess.Popen:
    # Not `accelerate launch --cpu`, which starts one process where there is no mpirun.
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, "-m", "trainers.cli"]
    arguments = ["finetune", "--config", str(folder / "config.yaml"), "--output_dir", str(folder / output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    # A session of its own, so that a kill reaches the launcher and both processes at once.
    return subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment, start_new_session=True)


def kill_after(checkpoint: Path, run: subprocess.Popen) -> None:
    """kill -9 as soon as a checkpoint is there, however far the run has come by then."""
    for _ in range(6000):
        assert run.poll() is None, "the run ended before it could be killed"
        if checkpoint.exists():
            break
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(folder: Path) -> None:
    assert start(folder, "straight").wait() == 0
    kill_after(folder / "killed" / f"checkpoint-{2 * SAVE_STEPS}", start(folder, "killed"))
    assert not (folder / "killed" / "model.safetensors").exists()
    assert start(folder, "killed").wait() == 0
    straight, killed = (load_file(folder / name / "model.safetensors") for name in ("straight", "killed"))
    assert straight.keys() == killed.keys()
    for name, value in straight.items():
        torch.testing.assert_close(killed[name], value, rtol=1e-5, atol=1e-5)
    begun = load_file(folder / "backbone" / "model.safetensors")["model.norm.weight"]
    assert (straight["backbone.norm.weight"] - begun).abs().max() > 1e-3
    state = json.loads((folder / "killed" / "trainer_state.json").read_text())
    assert state["global_step"] == STEPS
    rows, a_step = 24, 2 * 2 * 2  # each of two processes takes two micro-batches of two rows
    assert state["epoch"] == pytest.approx(STEPS * a_step / rows), "there were not two processes"
