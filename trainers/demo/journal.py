"""What a run has found so far, on the disk: each piece of work is done once, whatever ended the run in between."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..data.sources import Row
from ..jobs.parts import PartFiles


class Journal:
    """Pieces of work in an order that is always the same, their rows kept in `steps.jsonl.parts` of a folder.

    Raises ValueError where the folder holds a run with other settings, unless `overwrite`.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], overwrite: bool = False):
        self.parts = PartFiles(folder / "steps.jsonl")
        self.done = self.parts.open(settings, overwrite)
        self.number = 0

    def once(self, work: Callable[[], Iterable[Row]]) -> list[Row]:
        """The rows of the next piece of work, which is done now unless an earlier run did it."""
        number, self.number = self.number, self.number + 1
        if number not in self.done:
            self.parts.append(0, number, json.loads(json.dumps(list(work()))))
        return list(self.parts.rows([number]))

    def knows_next(self) -> bool:
        """Whether the next piece of work is done."""
        return self.number in self.done


def cpu_seconds() -> float:
    """CPU time of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
