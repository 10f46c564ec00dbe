"""A job that is killed, whenever that is, and started again ends as one that was not."""

import json
from pathlib import Path

import pytest

from tests.support.faults.jobs import AWAITED, JOBS, STEPS
from tests.support.faults.kills import SEED, Killer
from tests.support.faults.runs import Server
from tests.support.faults.workers import Forked, is_there, until


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    "job",
    [
        pytest.param(job, marks=pytest.mark.slow) if job in ("train-lm", "pretrain", "finetune") else job
        for job in JOBS
    ],
)
def test_a_job_that_is_killed_ends_as_one_that_is_not(commands: Server, data: Path, tmp_path: Path, job: str) -> None:
    Killer(commands, JOBS[job].short(), data, tmp_path, seed=0).until_it_ends(0, ["write"])


@pytest.mark.faults
@pytest.mark.parametrize("job", JOBS)
def test_twenty_kills(commands: Server, data: Path, tmp_path: Path, job: str) -> None:
    tally = Killer(commands, JOBS[job], data, tmp_path).kill(20)
    print(
        f"{job}, LOOKBACK_FAULT_SEED={SEED}: {tally.kills} kills in {tally.seconds:.0f} s, {tally.inside_a_write} "
        f"inside a write, {tally.inside_a_removal} inside the removal of a checkpoint, "
        f"{tally.past_the_last_checkpoint} between the last checkpoint and the final save"
    )


def by_two(commands: Server, argv: list[str]) -> str:
    """A run of two workers to its end; what the first one said."""
    ended = Forked(commands, argv).wait_for_both()
    assert [one.status for one in ended] == [0, 0], ended
    return ended[0].said


@pytest.mark.faults
@pytest.mark.parametrize("job", [name for name in JOBS if JOBS[name].trains])
def test_a_training_of_two_workers_that_is_killed(commands: Server, data: Path, tmp_path: Path, job: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    own = ["--sub_batch_size", "3", "--gradient_accumulation_steps", "2"] if job == "finetune" else []
    for place in (whole, killed):
        place.mkdir()
    by_two(commands, [*JOBS[job].argv(data, whole), *own])
    workers = Forked(commands, [*JOBS[job].argv(data, killed), *own])
    until(lambda: is_there(killed, "checkpoint-9/"), workers.over)
    workers.clear()
    assert all(run.wait().killed for run in workers.runs)
    by_two(commands, [*JOBS[job].argv(data, killed), *own])
    JOBS[job].assert_same(whole, killed)
    state = json.loads((killed / "run" / "trainer_state.json").read_text())
    rows = {"finetune": 8, "pretrain": 8, "train-lm": 7}[job]
    steps_an_epoch = -(-rows // (2 * 2 * (2 if own else 1)))  # two workers take two rows each
    assert state["epoch"] == pytest.approx(STEPS / steps_an_epoch), "there were not two workers"


@pytest.mark.faults
@pytest.mark.parametrize("job", [name for name in JOBS if not JOBS[name].trains])
def test_two_workers_go_on_with_what_one_left(commands: Server, data: Path, tmp_path: Path, job: str) -> None:
    places = [tmp_path / name for name in ("whole", "killed", "two")]
    for place in places:
        place.mkdir()
    assert commands.run(JOBS[job].argv(data, places[0])).status == 0
    alone = commands.start(JOBS[job].argv(data, places[1]))
    first = AWAITED[job].replace("1", "0")
    until(
        lambda: any(path.stat().st_size for path in places[1].rglob(f"{first}*")),
        lambda: alone.ended and alone.ended.said,
    )
    alone.kill()
    assert alone.wait().killed
    said = by_two(commands, JOBS[job].argv(data, places[1]))
    assert job.startswith("encode") or "by an earlier run" in said
    by_two(commands, JOBS[job].argv(data, places[2]))
    for place in places[1:]:
        JOBS[job].assert_same(places[0], place)
