"""Running code in a fresh Python process that cannot import Lookback, as a user of the Hub has it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("modeling_srlm", "modeling_llara", "modeling_biencoder", "trainers", "hub_cards")
_BLOCK = f"""
import sys
class _NoLookback:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {PACKAGES!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, _NoLookback())
"""


def process_without_lookback(code: str, *arguments: str | Path, folder: str | Path) -> dict[str, Any]:
    """What `subprocess` is told to run `code` so: `args`, `cwd` and `env`; see `run_without_lookback`."""
    home = {"HF_HOME": str(Path(folder) / "hf_home"), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-I", "-c", _BLOCK + code, *map(str, arguments)]
    return {"args": command, "cwd": folder, "env": {**os.environ, **home}}


def run_without_lookback(
    code: str, *arguments: str | Path, folder: str | Path, environment: Mapping[str, str] | None = None
) -> str:
    """The standard output of `code`, run with `sys.argv[1:]` = arguments, working in `folder`.

    Remote code is cached below `folder`, nothing is fetched, and no question at the terminal is answered, unless
    variables in `environment` say otherwise. Raises RuntimeError with the process's own error output if it fails.
    """
    process = process_without_lookback(code, *arguments, folder=folder)
    process["env"] |= environment or {}
    result = subprocess.run(**process, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"the process without Lookback failed:\n{result.stderr[-4000:]}")
    return result.stdout
