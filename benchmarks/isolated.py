"""Runs a row's function `alone` in a process of its own, so that its peak memory is its own."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]


def run_alone(module: str, **arguments: Any) -> dict[str, Any]:
    """What `alone(**arguments)` of a module returns in a fresh process; both ways through JSON.

    Raises RuntimeError with the process's last words where it fails.
    """
    command = [sys.executable, "-m", "benchmarks.isolated", module, json.dumps(arguments)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    print(json.dumps(module.alone(**json.loads(sys.argv[2]))))
