"""Parts of a file: what is left of a run goes on only where it is known to be the same run."""

from pathlib import Path

import pytest

from trainers.jobs.parts import PartFiles


@pytest.mark.parametrize("overwrite", [False, True])
def test_parts_without_their_settings_are_no_part_of_a_run(tmp_path: Path, overwrite: bool) -> None:
    """A run that ends while it removes its parts may leave them without the settings that they were made with."""
    parts = PartFiles(tmp_path / "out.jsonl")
    assert parts.open({"margin": 1}, False) == set()
    parts.append(0, 0, [{"neg": ["of the margin 1"]}])
    (parts.folder / "embeddings-000000.safetensors").touch()
    (parts.folder / "settings.json").unlink()
    assert parts.open({"margin": 2}, overwrite) == set()
    assert [path.name for path in parts.folder.iterdir()] == ["settings.json"]
    parts.append(0, 0, [{"neg": ["of the margin 2"]}])
    assert parts.open({"margin": 2}, False) == {0}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebodys_own_is_not_removed(tmp_path: Path, overwrite: bool) -> None:
    own = tmp_path / "x.jsonl.parts" / "precious.txt"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'precious.txt', which is not of a run: move that folder"):
        PartFiles(tmp_path / "x.jsonl").open({"a": 1}, overwrite)
    assert own.read_text() == "mine"
