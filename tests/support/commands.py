"""A training command, run as from the command line with a settings file; and commands that are refused."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from trainers import cli

QUIET = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "save_strategy": "no",
    "logging_steps": 1,
}


def run(command: ModuleType, folder: Path, data: str, extra_arguments: list[str], **settings: Any) -> Path:
    """Train the folder's `backbone` on its file `data`; the settings go into the file, the arguments behind it."""
    settings = {**QUIET, "model": str(folder / "backbone"), "train_data": str(folder / data), **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "eval_data": str(folder / data)}))
    command.main(["--config", str(folder / "config.yaml"), "--output_dir", str(folder / "run"), *extra_arguments])
    metrics = json.loads((folder / "run" / "all_results.json").read_text())
    assert metrics["eval_loss"] > 0
    return folder / "run"


def refused(folder: Path, monkeypatch: Any, capsys: Any, *arguments: Any) -> str:
    """The one line that a command ends with, exit status 2; `IN/` is the folder, in which nothing has changed."""
    before = sorted(folder.rglob("*"))
    placed = [str(argument).replace("IN/", f"{folder}/") for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["lookback", *placed])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert sorted(folder.rglob("*")) == before
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lookback ")]
    return line
