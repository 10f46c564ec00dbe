"""A job that is killed, whenever that is, and started again ends as one that was not."""

from pathlib import Path

import pytest

from tests.support.faults.jobs import JOBS
from tests.support.faults.kills import SEED, Killer
from tests.support.faults.runs import Server


@pytest.mark.parametrize("job", JOBS)
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
