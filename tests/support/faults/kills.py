"""Kills at random moments, changes of files and bytes of a write; the same command again until it ends."""

import os
import random
import re
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .jobs import Job
from .runs import Ended, Server

SEED = int(os.environ["LOOKBACK_FAULT_SEED"])  # of tests/conftest.py
KINDS = ("moment", "change", "write", "late")
REMOVED = "/removed-checkpoint"  # on its way out by save_total_limit
HALF = re.compile(r"(^|/)\.(writing|saving|saved)(/|$)|\.part$|\.incomplete$")


@dataclass
class Tally:
    """How many kills there were, and what they hit."""

    kills: int = 0
    inside_a_write: int = 0
    past_the_last_checkpoint: int = 0
    inside_a_removal: int = 0
    seconds: float = 0.0
    story: list[str] = field(default_factory=list)


def removals(changes: list[str]) -> list[int]:
    """Numbers of the changes that an old checkpoint is removed by."""
    numbers, removing = [], False
    for number, change in enumerate(changes):
        removing = REMOVED in change or (removing and change.startswith(("os.remove", "os.rmdir")))
        if removing:
            numbers.append(number)
    return numbers


class Killer:
    """Runs a job undisturbed, and then again and again with kills.

    Args:
        data: the folder of `jobs.prepare`. folder: an empty one, to write to.
    """

    def __init__(
        self, server: Server, job: Job, data: Path, folder: Path, seed: int = SEED, env: dict[str, str] | None = None
    ):
        self.server, self.job, self.data, self.folder, self.env = server, job, data, folder, env or {}
        self.random, self.tally = random.Random(f"{seed} {job.command}"), Tally()
        self.whole = folder / "whole"
        self.whole.mkdir()
        began = time.monotonic()
        trace = folder / "changes"
        ended = self._run(self.whole, {"trace": str(trace)})
        assert ended.status == 0, ended.said
        self.duration, self.changes = time.monotonic() - began, trace.read_text().splitlines()
        found = [number for number, change in enumerate(self.changes) if job.late in change]
        assert found, f"{job.late} is not among the changes"
        self.late = found[-1] if job.trains else found[0]
        self.removals = removals(self.changes)
        self.kinds = (*KINDS, "removal") if self.removals else KINDS

    def _run(self, place: Path, watch: dict[str, Any], after: float | None = None) -> Ended:
        run = self.server.start(self.job.argv(self.data, place), watch={"watch": str(place), **watch}, env=self.env)
        if after is not None:
            time.sleep(after)
            run.kill()
        return run.wait()

    def _plan(self, kind: str) -> dict[str, Any]:
        """Where to kill: after some seconds, or at the number of a change, or within what is written behind it."""
        if kind == "moment":
            return {"after": self.random.uniform(0, self.duration)}
        if kind == "removal":
            return {"kill_at": self.random.choice(self.removals)}
        first = self.late + 1 if kind == "late" else 0
        plan = {"kill_at": self.random.randrange(first, len(self.changes))}
        if kind == "write" or (kind == "late" and self.random.random() < 0.5):
            plan["cut"] = self.random.choice([0, 1, 10, 100, 1000])
        return plan

    def until_it_ends(self, number: int, kinds: list[str]) -> None:
        """A new folder; runs with the kills of `kinds`, one each, then the command as it is until it ends."""
        place = self.folder / f"killed-{number}"
        place.mkdir()
        for kind in kinds:
            plan = self._plan(kind)
            after = plan.pop("after", None)
            began = time.time()
            ended = self._run(place, plan, after)
            self.tally.story.append(f"{number}: {kind} {plan or after}: {ended.status}")
            if not ended.killed:
                assert ended.status == 0 or self._is_over(place, ended), ended.said
                break
            self._count(place, ended, began)
        ended = self._run(place, {})
        assert ended.status == 0 or self._is_over(place, ended), f"{self.tally.story[-3:]}: {ended.said}"
        self.job.assert_same(self.whole, place)
        shutil.rmtree(place)

    def _is_over(self, place: Path, ended: Ended) -> bool:
        return ended.status == 2 and "is there already" in ended.said and self.job.finished(place)

    def _count(self, place: Path, ended: Ended, began: float) -> None:
        self.tally.kills += 1
        ages = {str(path.relative_to(place)): path.stat().st_mtime for path in place.rglob("*")}
        names = [name for name, changed in ages.items() if changed > began]  # not of the run before
        in_write = ended.status == -signal.SIGXFSZ or any(HALF.search(name) for name in names)
        self.tally.inside_a_write += in_write
        self.tally.inside_a_removal += any(REMOVED in f"/{name}" for name in ages)
        there = [f"{self.job.output}/{name}" in ages for name in (f"checkpoint-{self.job.steps}", "model.safetensors")]
        self.tally.past_the_last_checkpoint += there == [True, False]

    def kill(self, kills: int) -> Tally:
        """So many kills, one to three a run; an AssertionError where a run ends otherwise than the undisturbed one.

        Its message names the seed; LOOKBACK_FAULT_SEED repeats the choices.
        """
        began = time.monotonic()
        for number in range(4 * kills):
            if self.tally.kills >= kills:
                break
            kinds = [
                self.kinds[number % len(self.kinds)],
                *self.random.choices(self.kinds, k=self.random.randrange(3)),
            ]
            try:
                self.until_it_ends(number, kinds[: kills - self.tally.kills])
            except AssertionError as error:
                error.add_note(f"LOOKBACK_FAULT_SEED={SEED}, {self.tally.story}")
                raise
        assert self.tally.kills >= kills, f"only {self.tally.kills} kills hit: {self.tally.story}"
        self.tally.seconds = time.monotonic() - began
        return self.tally
