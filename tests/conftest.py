"""Fixtures of tests in more than one folder."""

from pathlib import Path

import pytest

from hub_cards import write_card
from modeling_biencoder import modeling_biencoder
from tests.support.cards import EMPTY, fake_model
from tests.support.loopback_hub.fixtures import hub as hub


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A repo on the disk that is complete by the names of its files and holds no weights."""
    folder = tmp_path / "saved"
    write_card(fake_model(), folder)
    for name in ("config.json", "model.safetensors", "modeling_biencoder.py", "retriever/tokenizer.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(EMPTY)
    (folder / "modeling_biencoder.py").write_bytes(Path(modeling_biencoder.__file__).read_bytes())
    return folder
