"""Real pretrained models, out of packages that carry weights (extra `pretrained`); without them a test is skipped."""

import pytest

from trainers.embedded import pretrained


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2: mean pooling, normalised, 256 tokens."""
    try:
        return pretrained.minilm()
    except ModuleNotFoundError as missing:
        pytest.skip(str(missing))


def smollm_gguf() -> tuple[str, str]:
    """(folder, name of the GGUF file) of SmolLM2-135M-Instruct."""
    try:
        return pretrained.smollm2()
    except ModuleNotFoundError as missing:
        pytest.skip(str(missing))
