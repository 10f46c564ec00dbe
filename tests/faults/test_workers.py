"""One of two workers is killed: the job ends with an error soon, by itself or by its launcher."""

import random
from pathlib import Path

import pytest

from tests.support.faults.jobs import AWAITED, JOBS
from tests.support.faults.kills import SEED
from tests.support.faults.runs import Server
from tests.support.faults.workers import LAUNCHERS, environments, is_there, two_workers, until


def kill_one(commands: Server, data: Path, tmp_path: Path, job: str, killed: int, how: str | None, at: str | None):
    """A worker is killed when the file `at` is there, or at once; the others must end with an error."""
    place = tmp_path / "place"
    place.mkdir()
    with two_workers(commands, JOBS[job].argv(data, place), how, tmp_path / "log") as workers:
        if at is not None:
            until(lambda: is_there(place, at), workers.over)
        workers.kill(killed)
        ended = workers.wait()
    assert ended.status > 0, ended
    assert not (place / JOBS[job].output / "model.safetensors").exists()
    assert JOBS[job].trains or not (place / JOBS[job].output).exists()


@pytest.mark.faults
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("job", JOBS)
def test_the_other_worker_ends(commands: Server, data: Path, tmp_path: Path, job: str, killed: int) -> None:
    kill_one(commands, data, tmp_path, job, killed, None, AWAITED[job])


@pytest.mark.faults
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("job", JOBS)
def test_the_launcher_ends(commands: Server, data: Path, tmp_path: Path, job: str, launcher: str) -> None:
    drawn = random.Random(f"{SEED} {job} {launcher}")
    moments = [None, AWAITED[job]]
    for number, moment in enumerate(moments):  # while they start, and at work
        folder = tmp_path / str(number)
        folder.mkdir()
        kill_one(commands, data, folder, job, drawn.randrange(2), launcher, moment)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["finetune"])
def test_workers_of_a_new_folder_find_no_checkpoint(commands: Server, data: Path, tmp_path: Path, job: str) -> None:
    """The first worker is slow to make the folder that `--resume_from_checkpoint last` looks into."""
    argv = JOBS[job].argv(data, tmp_path)
    argv[argv.index("--max_steps") + 1] = "2"
    first, second = environments()
    slow = {"watch": str(tmp_path), "pause": 1.0}
    runs = [commands.start(argv, env=first, watch=slow), commands.start(argv, env=second)]
    for run in runs:
        ended = run.wait()
        assert ended.status == 0, ended.said
