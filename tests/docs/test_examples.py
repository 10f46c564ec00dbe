"""What stands in examples/ runs: on small data by default, as it is among the slow tests."""

import json
import subprocess
import sys

import pytest
import yaml

from examples.make_data import make_data
from modeling_biencoder import BiEncoderModel
from tests.support import ROOT
from trainers import load_retrieval_data
from trainers.commands import finetune
from trainers.embedded import BACKBONE_FOLDER
from trainers.embedded.corpus import CodePair

EXAMPLES = ROOT / "examples"
PAIRS = [CodePair(f"m{i}", f"docstring number {i}", f"def f{i}():\n    return {i}") for i in range(8)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr("examples.make_data.code_pairs", lambda split: PAIRS[:3] if split == "holdout" else PAIRS[2:])
    make_data(tmp_path / "data")
    return tmp_path / "data"


def test_the_data_leaves_out_what_is_evaluated_on(data):
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    assert [row["query"] for row in rows] == [pair.query for pair in PAIRS[3:]]
    (found,) = load_retrieval_data(data / "holdout").values()
    assert len(found.queries) == len(found.corpus) == 3


def test_the_configuration_trains_and_keeps_the_best(data, tmp_path):
    config = yaml.safe_load((EXAMPLES / "finetune.yaml").read_text())
    assert (EXAMPLES.parent / config["model"]) == BACKBONE_FOLDER
    config |= {"model": str(BACKBONE_FOLDER), "train_data": str(data / "train.jsonl")}
    config |= {"eval_retrieval": str(data / "holdout"), "output_dir": str(tmp_path / "run"), "use_cpu": True}
    config |= {
        "max_steps": 2,
        "eval_steps": 1,
        "save_steps": 1,
        "per_device_train_batch_size": 4,
        "disable_tqdm": True,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    finetune.main(["--config", str(tmp_path / "config.yaml")])
    model = BiEncoderModel.from_pretrained(tmp_path / "run")
    assert model.encode(["a text"]).shape == (1, model.config.hidden_size)
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["best_metric"] == max(entry.get("eval_mrr@10", 0) for entry in state["log_history"])


@pytest.mark.slow
def test_the_examples_as_they_are(tmp_path):
    root = EXAMPLES.parent
    (tmp_path / "trainers").symlink_to(root / "trainers")
    (tmp_path / "examples").symlink_to(root / "examples")
    for command in (
        [sys.executable, "examples/make_data.py", "runs/data"],
        [sys.executable, "examples/finetune.py"],
        [sys.executable, "-m", "trainers.cli", "finetune", "--config", "examples/finetune.yaml"],
    ):
        subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "2"}, check=True)
    assert (tmp_path / "runs/finetune/model.safetensors").exists()
    assert (tmp_path / "runs/finetune_py/model.safetensors").exists()
