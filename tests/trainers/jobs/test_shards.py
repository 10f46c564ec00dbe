"""Shards of a file: cut alike everywhere, whole or not there, and the same whoever made them."""

import json
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.jobs.shards import Shards

GROUPS = 7


def rows_of(group: int) -> list[dict]:
    return [{"group": group, "number": number, "text": "\u2028é"} for number in range(group % 3)]


def text_of(groups: int) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for group in range(groups) for row in rows_of(group))


def work(output: Path, num_shards: int = 3, make=rows_of, seconds: float = 0.4) -> int:
    shards = Shards(output, num_shards, seconds=seconds)
    shards.open({"seed": 1})
    count = shards.write_rows(GROUPS, make)
    shards.remove()
    return count


@given(st.integers(1, 50), st.integers(0, 500))
def test_shards_are_all_of_the_work_in_order_and_even(num_shards: int, extra: int) -> None:
    total = num_shards + extra
    ranges = Shards("x.jsonl", num_shards).ranges(total)
    assert [number for one in ranges for number in one] == list(range(total))
    assert len(ranges) == num_shards and {len(one) for one in ranges} <= {total // num_shards, -(-total // num_shards)}


@pytest.mark.parametrize("num_shards", [1, 2, 7])
def test_the_rows_come_in_order_and_nothing_else_stays(tmp_path: Path, num_shards: int) -> None:
    assert work(tmp_path / "x.jsonl", num_shards) == 6
    assert (tmp_path / "x.jsonl").read_text(encoding="utf-8") == text_of(GROUPS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_several_at_once_share_the_work(tmp_path: Path) -> None:
    made: list[int] = []
    both = threading.Barrier(2, timeout=60)

    def make(group: int) -> list[dict]:
        if group in (0, GROUPS // 3):  # the first of the first two shards: each worker has one
            both.wait()
        made.append(group)
        return rows_of(group)

    counts: list[int] = []
    workers = [threading.Thread(target=lambda: counts.append(work(tmp_path / "x.jsonl", make=make))) for _ in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(made) == list(range(GROUPS)) and counts == [6, 6]
    assert (tmp_path / "x.jsonl").read_text(encoding="utf-8") == text_of(GROUPS)


def test_what_is_half_written_is_not_there(tmp_path: Path) -> None:
    def make(group: int) -> list[dict]:
        if group == 3:
            raise KeyboardInterrupt
        return rows_of(group)

    with pytest.raises(KeyboardInterrupt):
        work(tmp_path / "x.jsonl", make=make)
    folder = tmp_path / "x.jsonl.shards"
    assert [path.name for path in folder.glob("rows-*.jsonl")] == ["rows-00000.jsonl"]
    assert not (tmp_path / "x.jsonl").exists()
    (folder / "killed").mkdir()  # as a worker leaves it that is killed while it writes
    (folder / "killed" / "rows-00001.jsonl").write_text("half")
    made: list[int] = []
    assert work(tmp_path / "x.jsonl", make=lambda group: (made.append(group), rows_of(group))[1]) == 6
    assert made == [2, 3, 4, 5, 6]
    assert (tmp_path / "x.jsonl").read_text(encoding="utf-8") == text_of(GROUPS)


def test_a_file_is_in_its_place_when_it_is_whole_and_what_lies_beside_it_before(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "x.npy", 1)
    shards.folder.mkdir()
    with pytest.raises(KeyboardInterrupt), shards.whole(tmp_path / "x.npy") as new:
        new.write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy.shards"]
    with shards.whole(tmp_path / "x.npy") as new:
        new.write_text("whole")
        new.with_name("x.ids.jsonl").mkdir()  # which cannot be written to: an error before anything is in its place
        with pytest.raises(OSError), shards.whole(tmp_path / "x.npy"):
            pass
        assert not (tmp_path / "x.npy").exists()
        new.with_name("x.ids.jsonl").rmdir()
    assert (tmp_path / "x.npy").read_text() == "whole"


def test_what_a_silent_one_had_is_taken_over_and_one_that_lives_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "x.jsonl.shards"
    folder.mkdir()
    (folder / "rows-00001.jsonl.0.claim").write_text(json.dumps({"machine": "another", "pid": 1, "started": 1.0}))
    ended = threading.Event()
    alive = folder / "rows-00002.jsonl.0.claim"

    def live() -> None:
        number = 0
        while not ended.wait(0.05):
            number += 1
            with suppress(OSError):  # all is done, and the folder is gone
                alive.write_text(json.dumps({"machine": "another", "pid": 2, "started": 1.0, "sign": number}))

    made: list[int] = []
    alive.write_text("")
    living = threading.Thread(target=live)
    living.start()
    worker = threading.Thread(
        target=work,
        args=(tmp_path / "x.jsonl",),
        kwargs={"make": lambda group: (made.append(group), rows_of(group))[1]},
    )
    worker.start()
    worker.join(2.0)  # five times as long as a silent one is waited for
    assert worker.is_alive() and made == [0, 1, 2, 3]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for group in range(4, 7) for row in rows_of(group)]
    (folder / "rows-00002.jsonl").write_text("".join(lines), encoding="utf-8")
    worker.join(60)
    ended.set()
    living.join()
    assert not worker.is_alive() and made == [0, 1, 2, 3]
    assert (tmp_path / "x.jsonl").read_text(encoding="utf-8") == text_of(GROUPS)


def test_another_run_and_a_finished_one_are_refused(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "x.jsonl", 3)
    shards.open({"seed": 1})
    with pytest.raises(ValueError, match=r"another kind: seed was 1 and is 2.*remove that folder"):
        Shards(tmp_path / "x.jsonl", 3).open({"seed": 2})
    with pytest.raises(ValueError, match="num_shards was 3 and is 4"):
        Shards(tmp_path / "x.jsonl", 4).open({"seed": 1})
    Shards(tmp_path / "x.jsonl", 3).open({"seed": 1})
    work(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl.shards").mkdir()  # as a kill leaves it within the last removal
    with pytest.raises(ValueError, match="is there already"):
        Shards(tmp_path / "x.jsonl", 3).open({"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_one_that_was_only_slow_ends_well_where_all_is_over(tmp_path: Path) -> None:
    def make(group: int) -> list[dict]:
        if group == 0:  # another one takes over, ends and tidies up
            (tmp_path / "x.jsonl").write_text(text_of(GROUPS), encoding="utf-8")
            Shards(tmp_path / "x.jsonl", 3).remove()
        return rows_of(group)

    assert work(tmp_path / "x.jsonl", make=make) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
