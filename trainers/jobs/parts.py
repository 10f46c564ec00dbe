"""A file that several processes write and that survives their death: parts beside it, joined at the end.

The work is cut into groups, numbered from 0. A finished group is one line in the part file of the process that did it;
a line that was cut off by an interruption is dropped, its group is done again.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hub_cards.whole_files import full_disk_named, written_whole

from ..data.sources import Row
from .places import check_file

DIGEST = "sha256 of "  # begins the names of digests among the settings of a run
DTYPE = "dtype of "  # and those of what weights are computed in
# What runs write beside their settings: parts, their claims, folders of workers, and any of these half written.
_OF_A_RUN = re.compile(r"\.?((part|rows|embeddings|floats)-\d+\.|settings\.json|.+\.claim|.+-\d+-[0-9a-f]{8}$)")


class PartFiles:
    """The parts of `output`, in the folder `output`.parts beside it, which all processes must see.

    `open`, `join`, `rows` and `remove` are for one process, before and after all of them; `append` is for each.

    Args:
        over: whether a finished output is there; by default when `output` is.
    """

    def __init__(self, output: str | Path, over: Callable[[], bool] | None = None):
        self.output = Path(output)
        self._all_there = over or self.output.exists
        self.folder = parts_folder(output)
        self._settings = self.folder / "settings.json"

    def open(self, settings: dict[str, Any], overwrite: bool, extends: bool = False) -> set[int]:
        """Starts anew or goes on with an interrupted run; returns the groups that are done.

        Args:
            extends: a finished output may be there, to which the groups are added.

        Raises ValueError where a finished output is there, or an interrupted run with other settings, or in shards.
        """
        refuse_other_kind(self.output, sharded=False)
        refuse_foreign(self.folder)
        if overwrite:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif not extends and self._all_there() and not self._settings.exists():
            shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed while it did so
            raise _there_already(self.output)
        if self._settings.exists():
            check_same_run(self._settings, settings, "give --overwrite to start anew")
        else:  # what lies there is of a run that was ended while it removed its parts, and may be of another kind
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_lines(self._settings, [json.dumps(settings, indent=1)])
        return self._repair()

    def _repair(self) -> set[int]:
        """Cuts each part behind its last whole line."""
        done: set[int] = set()
        for part in self._parts():
            lines = list(_lines(part))
            done.update(group for group, _, _ in lines)
            os.truncate(part, lines[-1][2] if lines else 0)
        return done

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.jsonl"))

    def append(self, process: int, group: int, rows: list[Row]) -> None:
        """Adds a finished group to the part of a process; it is on the disk when this returns.

        What JSON does not know (a table's dates) becomes text.
        """
        line = json.dumps([group, rows], ensure_ascii=False, default=str).encode() + b"\n"
        part = self.folder / f"part-{process:05}.jsonl"
        with full_disk_named(part), part.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def join(self, num_groups: int) -> int:
        """Writes the rows of all groups in order to `output` in one stroke, removes the parts; returns their number.

        Raises RuntimeError where a group is missing.
        """
        rows = self.rows(range(num_groups))
        count = write_lines(self.output, (json.dumps(row, ensure_ascii=False) for row in rows))
        self.remove()
        return count

    def rows(self, groups: Iterable[int]) -> Iterator[Row]:
        """The rows of these groups, in their order. Raises RuntimeError where one is missing."""
        where = {group: (part, start) for part in self._parts() for group, start, _ in _lines(part)}
        wanted = list(groups)
        if missing := sorted(set(wanted) - where.keys()):
            raise RuntimeError(f"{self.folder} lacks the groups {missing[:5]}: run the command again to do them.")
        for group in wanted:
            part, start = where[group]
            with part.open("rb") as file:
                file.seek(start)
                yield from json.loads(file.readline())[1]

    def remove(self) -> None:
        """Removes the parts, when what they held is elsewhere; the settings first: what lies beside none is over."""
        self._settings.unlink(missing_ok=True)
        shutil.rmtree(self.folder)


def refuse_foreign(folder: Path) -> None:
    """ValueError where the folder that a run would use, and remove, is somebody's own: it has no settings of a run,
    and holds what no run writes. (A run that was killed while it removed its files leaves some of these.)"""
    if (folder / "settings.json").exists():
        return
    for file in folder.glob("*"):
        if not _OF_A_RUN.match(file.name):
            raise ValueError(
                f"{str(folder)!r} is where the run keeps what it has done, and holds {file.name!r}, which is not "
                "of a run: move that folder, or name another output."
            )


def check_same_run(kept: Path, settings: dict[str, Any], fix: str = "remove that folder") -> None:
    """ValueError for a run whose settings, kept in a file of its folder, are others, or are not to be read."""
    try:
        before = json.loads(kept.read_text(encoding="utf-8"))
        assert isinstance(before, dict)
    except (ValueError, AssertionError):
        raise ValueError(f"{kept} is damaged, and must hold the settings of an interrupted run: {fix}.") from None
    if differences := differing(before, settings):
        raise ValueError(
            f"{kept.parent} holds an interrupted run of another kind: {differences}. Run it as it was to go on with "
            f"it, or {fix}."
        )


def differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How settings that were saved as JSON differ from these, in words; "" where they do not.

    A digest, or a dtype, that one side lacks is not compared: former versions had fewer, and not all runs ask a
    retriever.
    """
    now = json.loads(json.dumps(now))
    return "; ".join(
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
        and not (name.startswith((DIGEST, DTYPE)) and (name not in before or name not in now))
    )


def parts_folder(output: str | Path) -> Path:
    """Where the processes of one launcher keep what they have done."""
    return Path(output).with_name(Path(output).name + ".parts")


def shards_folder(output: str | Path) -> Path:
    """Where workers that share no more than storage keep what they need (see `shards`)."""
    return Path(output).with_name(Path(output).name + ".shards")


def check_absent(output: str | Path, overwrite: bool) -> None:
    """ValueError for an output that is there, which is written in one stroke, where it is not to be written over."""
    if Path(output).exists() and not overwrite:
        raise _there_already(Path(output))


def check_new(
    output: str | Path, sharded: bool = False, overwrite: bool = False, there: Iterable[Path] | None = None
) -> None:
    """ValueError for an output that is there, and that no run of this kind may have to go on with or tidy up behind;
    and where a run of the other kind does. Whether it is this run, `open` says, by its settings.

    Args:
        sharded: whether the work is shared in shards.
        there: the files of the output that are there, where it is not the one of this name.
    """
    refuse_other_kind(output, sharded)
    own = shards_folder(output) if sharded else parts_folder(output)
    if overwrite or own.exists():
        return
    for file in [Path(output)] if there is None else there:
        if file.exists():
            raise _there_already(file, "remove it" if sharded else "give --overwrite")


def _there_already(file: Path, fix: str = "give --overwrite") -> ValueError:
    return ValueError(f"{file} is there already: name another output, or {fix}.")


def refuse_other_kind(output: str | Path, sharded: bool) -> None:
    """ValueError where a run on this output goes on, or was interrupted, that shares its work in another way."""
    other, kind = (parts_folder(output), "without") if sharded else (shards_folder(output), "with")
    if (other / "settings.json").exists():
        raise ValueError(
            f"{other} holds a run {kind} --num_shards on this output: go on with it {kind} that option, or remove "
            "that folder."
        )


def check_output(output: str, suffixes: str | tuple[str, ...] = ".jsonl", **sources: str | None) -> None:
    """Raises ValueError for an output of another suffix, or in what is read: options' values by their names."""
    allowed = (suffixes,) if isinstance(suffixes, str) else suffixes
    if Path(output).suffix not in allowed:
        raise ValueError(f"--output={output!r} must end in {', '.join(allowed)}: give it such a name.")
    check_file("--output", output, **sources)


def _lines(part: Path) -> Iterator[tuple[int, int, int]]:
    """(group, start, end) of the whole lines of a part, in bytes; the rest of a damaged file is left out."""
    start = 0
    with part.open("rb") as file:
        for line in file:
            try:
                group, _ = json.loads(line) if line.endswith(b"\n") else (None, None)
            except (TypeError, ValueError):  # no JSON, or none of ours
                group = None
            if group is None:
                return
            yield group, start, start + len(line)
            start += len(line)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Writes lines, and returns how many; `path` is there as a whole or not at all."""
    count = 0
    with written_whole(path) as new, new.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count
