"""Work in shards, for any number of workers that have nothing but a folder in common; any of them may die.

Each starts the same command. Whoever claims a shard (see `claims`) makes its file, in a folder of its own, and puts it
in its place when it is whole: what is in its place is finished, and is the same whoever made it. A worker ends when
all shards are done, and until then takes over those of dead ones.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging

from hub_cards.whole_files import full_disk_named

from ..data.sources import Row
from .claims import Claims
from .idle import refuse_idle
from .parts import check_same_run, refuse_foreign, refuse_other_kind, shards_folder, write_lines

logger = logging.get_logger(__name__)
_PAUSE = 0.1  # seconds before others' work is looked at anew, at first
# Of the commands that take one.
NUM_SHARDS_HELP = (
    "Cut the work into so many shards, and share them with whoever starts the same command on the same storage: any "
    "number of machines, of which any may die."
)


def check_num_shards(arguments: Any) -> None:
    """ValueError for a number of shards below 1, or one with --overwrite."""
    if (given := arguments.num_shards) is None:
        return
    if given < 1:
        raise ValueError(f"--num_shards={given} must be at least 1: raise it, or leave it out.")
    why = "with --num_shards, as a worker that starts later would throw away what others did"
    refuse_idle(arguments, ["overwrite"], why, "remove the output yourself")


class Shards:
    """The shards of `output`, and what is kept until they are all done: in the folder `output`.shards beside it.

    Args:
        num_shards: how many.
        over: whether all is done; by default when `output` is there.
        seconds: see `Claims`.
    """

    def __init__(
        self,
        output: str | Path,
        num_shards: int,
        over: Callable[[], bool] | None = None,
        seconds: float | None = None,
    ):
        self.output, self.num_shards = Path(output), num_shards
        self._all_there = over or self.output.exists
        self._damaged: dict[Path, Callable[[], bool]] = {}  # and whether it is whole by now
        self.folder = shards_folder(output)
        self.claims = Claims(self.folder, seconds)
        self._settings = self.folder / "settings.json"
        self._own = self.folder / self.claims.worker

    def over(self) -> bool:
        """Whether all is done."""
        return self._all_there() and all(self._is_done(file) for file in list(self._damaged))

    def look(self, files: Sequence[Path], is_whole: Callable[[int], bool]) -> None:
        """Looks at those of `files` that are there: one that something damaged since is to be made anew.

        Nothing that works here leaves such; a full disk, a copy or a hand may.
        """
        for number, file in enumerate(files):
            if file.exists() and not is_whole(number):
                logger.warning(f"{file}, or what lies beside it, is damaged: it is made anew.")
                self._damaged[file] = partial(is_whole, number)

    def _is_done(self, file: Path) -> bool:
        if file.exists() and (is_whole := self._damaged.get(file)) is not None and is_whole():
            del self._damaged[file]  # as another worker made it anew, or this one
        return file.exists() and file not in self._damaged

    def open(self, settings: dict[str, Any]) -> None:
        """Joins the run, or begins it; ValueError where there is one with other settings or of another kind, or a
        finished output."""
        refuse_other_kind(self.output, sharded=True)
        settings = {**settings, "num_shards": self.num_shards}
        if not self._settings.exists():
            refuse_foreign(self.folder)
            if self.over():
                self.remove()  # of a run that was killed while it did so
                raise ValueError(f"{self.output} is there already, all of it: name another output.")
            self.folder.mkdir(parents=True, exist_ok=True)
            self.share([self._settings], lambda _: self.write(self._settings, json.dumps(settings, indent=1)))
        check_same_run(self._settings, settings)

    def ranges(self, total: int) -> list[range]:
        """`total` pieces of work, cut into the shards: each within one as many as the others.

        >>> Shards("x.jsonl", 3).ranges(7)
        [range(0, 2), range(2, 4), range(4, 7)]
        """
        count = self.num_shards
        return [range(number * total // count, (number + 1) * total // count) for number in range(count)]

    def share(self, files: Sequence[Path], make: Callable[[int], None], description: str | None = None) -> None:
        """Returns when all of `files` are there, or all is over. `make(i)` is called for those that fall to this
        worker, and leaves the i-th by `whole`.
        """
        left, pause = list(range(len(files))), _PAUSE
        with tqdm(total=len(files), desc=description, unit="shard", disable=description is None) as bar:
            while left and not self.over():
                made = 0
                for number in left:
                    made += (done := self._take(files[number], number, make))
                    bar.update(done)
                left = [number for number in left if not self._is_done(files[number])]
                bar.update(len(files) - len(left) - bar.n)
                if left and not made:  # others are at work
                    bar.set_postfix_str("waiting for others")
                    time.sleep(pause)
                pause = _PAUSE if made else min(2 * pause, self.claims.interval)

    def _take(self, file: Path, number: int, make: Callable[[int], None]) -> bool:
        """Whether it was done here: it was neither there nor another's."""
        if self._is_done(file):
            return False
        with self.claims.held(file.name) as held:
            if not held or self._is_done(file):
                return False
            try:
                make(number)
            except OSError:
                if not self.over():
                    raise  # else others took this worker for dead, did its work and tidied up
        return True

    def write_rows(self, num_groups: int, rows_of: Callable[[int], list[Row]], description: str | None = None) -> int:
        """Writes the rows of all groups, numbered from 0, to the output in their order, and returns their number.

        Each shard is the groups of one of `ranges`. The rows are `PartFiles`' to the byte.
        """
        groups = self.ranges(num_groups)
        files = [self.folder / f"rows-{number:05}.jsonl" for number in range(self.num_shards)]

        def make(shard: int) -> None:
            rows = (row for group in groups[shard] for row in rows_of(group))
            with self.whole(files[shard]) as new:
                write_lines(new, (json.dumps(row, ensure_ascii=False, default=str) for row in rows))

        def join(_: int) -> None:
            with self.whole(self.output) as new, new.open("wb") as joined:
                for file in files:
                    with file.open("rb") as rows:
                        shutil.copyfileobj(rows, joined)

        self.share(files, make, description)
        self.share([self.output], join)
        with self.output.open("rb") as lines:
            return sum(1 for _ in lines)

    def check(self, num_groups: int) -> None:
        """ValueError for more shards than groups."""
        if self.num_shards > num_groups:
            raise ValueError(
                f"--num_shards={self.num_shards} must be at most {num_groups}, as many groups as these rows make: "
                "lower it."
            )

    @contextmanager
    def whole(self, file: Path) -> Iterator[Path]:
        """A file of the same name to write to, of this worker alone, with others beside it if need be; after the block
        they all take their places, `file` last.
        """
        self._own.mkdir(exist_ok=True)
        new = self._own / file.name
        with full_disk_named(file):
            yield new
            for one in sorted(self._own.iterdir(), key=lambda one: one == new):
                with one.open("rb+") as written:
                    os.fsync(written.fileno())
                os.replace(one, file.parent / one.name)

    def write(self, file: Path, text: str) -> None:
        """A text as a whole file."""
        with self.whole(file) as new:
            new.write_text(text, encoding="utf-8", newline="\n")

    def remove(self) -> None:
        """Removes what was kept, the settings last: what lies beside none is of no run."""
        for one in self.folder.glob("*"):
            if one.is_dir():
                shutil.rmtree(one, ignore_errors=True)
            elif one != self._settings:
                one.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
