"""Workers that share no more than a folder (`--num_shards`): at once, killed, and taken over."""

from pathlib import Path

import pytest

from tests.support.faults.copies import started
from tests.support.faults.jobs import SHARDED, Job
from tests.support.faults.kills import Killer
from tests.support.faults.runs import LIMIT, Server, files
from tests.support.faults.workers import until

# What shows that a first piece of a job is done, and another one is at work.
AWAITED = {"score": "rows-00000.jsonl", "mine": "embeddings-000000", "encode": "out-00000-of-00003.safetensors",
           "encode to int8": "floats-00000.bin"}  # fmt: skip
# A claim that was cut off says nothing of who had it, and so is waited for that long.
ENV = {"LOOKBACK_PEER_TIMEOUT": "2"}


def whole(commands: Server, data: Path, tmp_path: Path, job: Job) -> Path:
    """What one worker writes."""
    place = tmp_path / "whole"
    place.mkdir()
    ended = commands.run(job.argv(data, place))
    assert ended.status == 0, ended.said
    return place


def two(commands: Server, data: Path, tmp_path: Path, name: str, kill: bool) -> None:
    job, place = SHARDED[name], tmp_path / "two"
    place.mkdir()
    runs = [commands.start(job.argv(data, place), env=ENV) for _ in range(2)]
    if kill:
        until(lambda: any(Path(path).name.startswith(AWAITED[name]) for path in files(place)), lambda: None)
        runs[0].kill()
        assert runs[0].wait().killed
    ended = [run.wait() for run in runs[kill:]]
    assert [one.status for one in ended] == [0] * len(ended), ended
    job.assert_same(whole(commands, data, tmp_path, job), place)


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", ["mine", "encode to int8"])
def test_two_at_once_give_the_bytes_of_one(data: Path, tmp_path: Path, name: str) -> None:
    job, folders = SHARDED[name], [tmp_path / "whole", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    runs = [started(job.argv(data, folder), **ENV) for folder in (*folders, folders[1])]
    for run in runs:
        run.join(LIMIT)
    assert [run.exitcode for run in runs] == [0] * 3
    job.assert_same(*folders)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["score", "encode"])
def test_so_do_others(commands: Server, data: Path, tmp_path: Path, name: str) -> None:
    two(commands, data, tmp_path, name, kill=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encode"])
def test_what_a_killed_one_had_is_taken_over(commands: Server, data: Path, tmp_path: Path, name: str) -> None:
    two(commands, data, tmp_path, name, kill=True)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["score", "mine", "encode to int8"])
def test_so_it_is_of_others(commands: Server, data: Path, tmp_path: Path, name: str) -> None:
    two(commands, data, tmp_path, name, kill=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["score"])
def test_a_worker_that_is_killed_may_be_started_again(commands: Server, data: Path, tmp_path: Path, name: str) -> None:
    Killer(commands, SHARDED[name], data, tmp_path, seed=0, env=ENV).until_it_ends(0, ["write"])


@pytest.mark.faults
@pytest.mark.parametrize("name", SHARDED)
def test_twenty_kills(commands: Server, data: Path, tmp_path: Path, name: str) -> None:
    tally = Killer(commands, SHARDED[name], data, tmp_path, env=ENV).kill(20)
    print(f"{name}: {tally.kills} kills in {tally.seconds:.0f} s, {tally.inside_a_write} inside a write")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["mine", "score"])
def test_shards_give_the_bytes_of_none(commands: Server, data: Path, tmp_path: Path, name: str) -> None:
    sharded = whole(commands, data, tmp_path, SHARDED[name])
    plain = tmp_path / "plain"
    plain.mkdir()
    argv = SHARDED[name].argv(data, plain)
    assert commands.run(argv[: argv.index("--num_shards")]).status == 0
    SHARDED[name].assert_same(sharded, plain)
