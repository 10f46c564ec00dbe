"""Parts of a file: what is left of a run goes on only where it is known to be the same run."""

from pathlib import Path

import pytest

from tests.support.files import write_rows
from trainers.commands.encode import EncodeArguments
from trainers.jobs.parts import PartFiles
from trainers.jobs.shards import Shards
from trainers.mining.settings import MineArguments
from trainers.models.identity import ALL_WEIGHTS


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


def test_a_run_goes_on_as_it_was_shared(tmp_path: Path) -> None:
    """Else a plain run would write over what a run in shards has finished, and the other way round."""
    data, output = str(tmp_path / "rows.jsonl"), tmp_path / "x.jsonl"
    write_rows(Path(data), [{"query": "a", "pos": ["b"]}])
    Shards(output, 2).open({"seed": 1})
    kept = sorted(tmp_path.rglob("*"))
    plain, shards = "with --num_shards on this output: go on with it with", "without --num_shards on this output"
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=plain):
            PartFiles(output).open({"seed": 1}, overwrite)
        with pytest.raises(ValueError, match=plain):
            MineArguments(data, str(output), overwrite=overwrite)
    Shards(tmp_path / "x.npy", 2).open({"seed": 1})
    (tmp_path / "x-00000-of-00002.npy").touch()
    with pytest.raises(ValueError, match=plain):
        EncodeArguments("model", data, str(tmp_path / "x.npy"))
    PartFiles(tmp_path / "y.jsonl").open({"seed": 1}, False)
    with pytest.raises(ValueError, match=shards):
        Shards(tmp_path / "y.jsonl", 2).open({"seed": 1})
    with pytest.raises(ValueError, match=shards):
        MineArguments(data, str(tmp_path / "y.jsonl"), num_shards=2)
    assert {*kept} <= {*tmp_path.rglob("*")} and (tmp_path / "x-00000-of-00002.npy").exists()


def test_a_finished_output_is_kept_behind_a_run_that_was_killed_while_it_tidied_up(tmp_path: Path) -> None:
    parts = PartFiles(tmp_path / "x.jsonl")
    parts.folder.mkdir()
    (parts.folder / "part-00000.jsonl").touch()
    parts.output.write_text("finished")
    with pytest.raises(ValueError, match=r"x\.jsonl is there already: name another output, or give --overwrite"):
        parts.open({"seed": 2}, False)
    assert parts.output.read_text() == "finished" and not parts.folder.exists()


def test_settings_that_came_later_count_where_both_runs_have_them(tmp_path: Path) -> None:
    former = PartFiles(tmp_path / "x.jsonl")
    former.open({"seed": 1}, False)
    former.open({"seed": 1, ALL_WEIGHTS: "a", "dtype of the weights": "float32"}, False)
    with pytest.raises(ValueError, match="another kind: other was None and is 2"):
        former.open({"seed": 1, "other": 2}, False)
    today = PartFiles(tmp_path / "y.jsonl")
    today.open({"seed": 1, ALL_WEIGHTS: "a"}, False)
    with pytest.raises(ValueError, match="sha256 of all weights was 'a' and is 'b'"):
        today.open({"seed": 1, ALL_WEIGHTS: "b"}, False)


@pytest.mark.parametrize("damaged", ["", "[1]"])
def test_settings_that_were_not_written_are_named(tmp_path: Path, damaged: str) -> None:
    parts = PartFiles(tmp_path / "x.jsonl")
    parts.open({"seed": 1}, False)
    (parts.folder / "settings.json").write_text(damaged)  # as a full disk leaves it
    with pytest.raises(ValueError, match=r"x.jsonl.parts.settings\.json is damaged.*give --overwrite to start anew"):
        parts.open({"seed": 1}, False)


def test_a_line_that_is_no_group_is_where_a_part_ends(tmp_path: Path) -> None:
    parts = PartFiles(tmp_path / "x.jsonl")
    parts.open({"seed": 1}, False)
    parts.append(0, 0, [{"a": 1}])
    with (parts.folder / "part-00000.jsonl").open("a") as part:
        part.write("5\n")
    assert parts.open({"seed": 1}, False) == {0}
