"""A bad file, whatever command it is for: one line with the file and the row, exit status 2, no output left behind."""

from pathlib import Path

import pytest

from tests.support.faults.bad_files import LINES, READERS, WHOLE, cases, make, prepare_models
from tests.support.faults.runs import Server

CASES = cases()
# Every command, with kinds that take turns.
FEW = [CASES[place] for place in range(0, len(CASES), 41)]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_models(tmp_path_factory.mktemp("models"))


def check(commands: Server, models: Path, folder: Path, name: str, kind: str) -> None:
    reader = READERS[name]
    for part in ("in", "out"):
        (folder / part).mkdir(parents=True)
    path = make(reader, kind, folder / "in")
    ended = commands.run(reader.arguments(folder, models), no_rights=kind == "no rights")
    about = f"{name}, {kind}: {ended.status} {ended.said[-2000:]}"
    assert ended.status == 2 and "Traceback" not in ended.said, about
    lines = [line for line in ended.said.replace("\r", "\n").splitlines() if line.startswith("lookback ")]
    assert len(lines) == 1, about
    assert ended.said.rstrip().endswith(lines[0]), about  # one line: nothing behind it
    named = f"{path}, line 2" if kind in LINES and reader.row else str(path.parent if "beir" in str(path) else path)
    assert named in lines[0], about
    said = {**WHOLE, **LINES}[kind].replace("{field}", f"field '{reader.field}'")
    assert said in lines[0] or (kind == "loop" and "beir" in str(path)), about
    assert not list((folder / "out").iterdir()), about


@pytest.mark.slow
def test_a_bad_file_is_one_line(commands: Server, models: Path, tmp_path: Path) -> None:
    for number, (name, kind) in enumerate(FEW):
        check(commands, models, tmp_path / str(number), name, kind)


@pytest.mark.faults
@pytest.mark.parametrize("name", READERS)
def test_every_bad_file_for_every_command_is_one_line(
    commands: Server, models: Path, tmp_path: Path, name: str
) -> None:
    wrong = []
    for kind in (kind for reader, kind in CASES if reader == name):
        try:
            check(commands, models, tmp_path / kind, name, kind)
        except AssertionError as error:
            wrong.append(str(error).splitlines()[0])
    assert not wrong, "\n".join(wrong)
