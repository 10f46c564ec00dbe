"""A disk that is full: one line and exit status 2, nothing half-written; with space the command goes on to its end."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.faults.disks import Work, changes_of, contents, mounted, size, starve
from tests.support.faults.jobs import JOBS
from tests.support.faults.kills import SEED
from tests.support.faults.runs import Ended, Server, files
from tests.support.faults.writers import ARGUMENTS, former, prepare_writers, writer
from tests.support.loopback_hub.fixtures import commit
from tests.support.loopback_hub.server import LoopbackHub

PAGE = 4096
Changes = Callable[[str, Work], tuple[Path, list[str]]]
# What is being written when the space ends: the change from which on there are so many bytes left, of the last
# such change or the first one, and a file whose size counts by half.
PLACES: dict[str, tuple[str, int, str | None]] = {
    "the output folder": ("os.mkdir /run ", 0, None),
    "a checkpoint's code": ("/checkpoint-3/.saving ", 0, None),
    "a checkpoint's model": ("/checkpoint-3/.saving/config.json ", 0, "model.safetensors"),
    "a checkpoint's optimizer": ("/checkpoint-3/.training_args.json.part /run", 0, "optimizer.pt"),
    "a checkpoint's state": ("open /run/.writing/checkpoint-3/trainer_state.json ", 0, None),
    "a checkpoint's card": ("open /run/.writing/checkpoint-3/.README.md.part ", 0, None),
    "a later optimizer": ("/checkpoint-9/.training_args.json.part /run", 0, "optimizer.pt"),
    "the model": ("open /run/.saving/config.json ", 0, "model.safetensors"),
    "the arguments": ("os.rename /run/.saved/", -1, None),
    "the figures": ("open /run/.all_results.json.part ", 0, None),
    "the state": ("open /run/.trainer_state.json.part ", 0, None),
    "the card": ("open /run/.README.md.part ", -2, None),
}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    with mounted(tmp_path / "small") as problem:
        if problem is not None:
            pytest.skip(f"a file system may not be mounted here: {problem}")
        yield tmp_path / "small"


@pytest.fixture(scope="session")
def whole(commands: Server, tmp_path_factory: pytest.TempPathFactory) -> Changes:
    """Runs with space, one a name."""
    known: dict[str, tuple[Path, list[str]]] = {}

    def run(name: str, work: Work) -> tuple[Path, list[str]]:
        if name not in known:
            known[name] = changes_of(commands, work, tmp_path_factory.mktemp("undisturbed"))
        return known[name]

    return run


@pytest.fixture(scope="session")
def writers_data(commands: Server, data: Path) -> Path:
    prepare_writers(data, commands)
    return data


def job(name: str, data: Path) -> Work:
    return Work(name, lambda place: JOBS[name].argv(data, place), JOBS[name].assert_same)


def check(ended: Ended, work: Work, place: Path, about: str) -> None:
    """One line that names a file or folder on the disk."""
    about = f"LOOKBACK_FAULT_SEED={SEED}, {about}: {ended.status} {ended.said[-3000:]}"
    assert ended.status == 2, about
    assert ended.message.startswith(f"lookback {work.command.split()[0]}: "), about
    assert "space" in ended.message and str(place) in ended.message, about
    assert "Traceback" not in ended.said, about


def check_checkpoints(run: Path, whole: Path) -> None:
    """Each is complete, and there is no piece of another."""
    last = max(whole.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    for folder in run.glob("checkpoint-*"):
        assert files(folder) == files(last)
        load_file(folder / "model.safetensors")
    assert not any("/." in f"/{name}" for name in files(run))


def goes_on(commands: Server, work: Work, place: Path, whole: Path) -> None:
    ended = commands.run(work.argv(place), **work.settings(place))
    over = ended.status == 2 and "is there already" in ended.said
    assert ended.status == 0 or over, ended.said[-3000:]
    work.assert_same(whole, place)


@pytest.mark.faults
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", [name for name in JOBS if JOBS[name].trains])
def test_a_training_is_out_of_space(
    commands: Server, data: Path, small: Path, whole: Changes, name: str, where: str
) -> None:
    work = job(name, data)
    undisturbed, changes = whole(name, work)
    text, which, file = PLACES[where]
    number = [number for number, change in enumerate(changes) if text in change][which]
    left = 0 if file is None else (undisturbed / "run" / "checkpoint-22" / file).stat().st_size // 2
    place = small / "place"
    place.mkdir()
    check(starve(commands, work, place, number, left), work, place, where)
    check_checkpoints(place / "run", undisturbed / "run")
    goes_on(commands, work, place, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("part", range(6))
@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_out_of_space(
    commands: Server, data: Path, small: Path, whole: Changes, name: str, part: int
) -> None:
    work = job(name, data)
    undisturbed, changes = whole(name, work)
    drawn = random.Random(f"{SEED} {name} {part}")
    number = drawn.randrange(int(len(changes) * part / 6), int(len(changes) * (part + 1) / 6))
    left = drawn.choice([0, 0, PAGE, 2 * PAGE, drawn.randrange(size(undisturbed) // 3)])
    place = small / "place"
    place.mkdir()
    ended = starve(commands, work, place, number, left)
    if ended.status != 0:  # else it needed no more
        check(ended, work, place, f"{left} bytes from change {number} on")
        if JOBS[name].trains:
            check_checkpoints(place / "run", undisturbed / "run")
        else:
            assert not (place / JOBS[name].output).exists()
    goes_on(commands, work, place, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for name in ARGUMENTS for part in range(4 - 2 * (name == "demo"))]
)
def test_a_command_is_out_of_space(
    commands: Server, writers_data: Path, small: Path, whole: Changes, hub: LoopbackHub, name: str, part: int
) -> None:
    commit(hub, "user/repo", writers_data / "biencoder")
    work = writer(name, writers_data, hub.endpoint)
    undisturbed, changes = whole(name, work)
    drawn = random.Random(f"{SEED} {name} {part}")
    number = drawn.randrange(len(changes))
    left = drawn.choice([0, 0, PAGE, drawn.randrange(size(undisturbed) // 2)])
    place = small / "place"
    place.mkdir()
    there_before = part % 2 and name != "demo" and not {"hub"} & work.settings(place).keys()
    if there_before:
        former(undisturbed, place)
    before = contents(place)
    ended = starve(commands, work, place, number, left)
    if ended.status != 0:
        check(ended, work, place, f"{left} bytes from change {number} on, {changes[number]}")
        assert not there_before or contents(place) == before
    again = commands.run(work.argv(place), **work.settings(place))
    assert again.status == 0, again.said[-3000:]
    if not there_before:
        work.assert_same(undisturbed, place)
