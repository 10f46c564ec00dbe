"""A training command, run as from the command line with a settings file."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

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
