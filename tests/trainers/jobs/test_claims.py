"""Claims: one worker at a time has a piece of work, and what a dead one had comes free."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import ROOT
from trainers.jobs import claims as module
from trainers.jobs.claims import Claims


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that pass as the test says."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_one_of_many_gets_it(tmp_path: Path) -> None:
    """All at once, again and again: the creation of a file decides."""
    workers, names = 8, [f"work-{number}" for number in range(50)]
    barrier = Barrier(workers)

    def claim(_: int) -> list[str]:
        own = Claims(tmp_path, 100)
        had = []
        for name in names:
            barrier.wait()
            had += [name] * (own._created(name) is not None)
        return had

    with ThreadPoolExecutor(workers) as pool:
        had = [name for own in pool.map(claim, range(workers)) for name in own]
    assert sorted(had) == sorted(names)


def test_who_gives_signs_keeps_it_and_who_gives_none_loses_it(tmp_path: Path, clock: list[float]) -> None:
    holder, other = Claims(tmp_path, 10), Claims(tmp_path, 10)
    path = holder._created("x")
    assert path is not None
    for number in range(1, 6):
        clock[0] += 8
        holder._write(path, holder._sign(number))
        assert other._created("x") is None
    clock[0] += 10
    assert other._created("x") is None  # silent for just as long as may be
    clock[0] += 0.1
    taken = other._created("x")
    assert taken is not None and taken.name == "x.1.claim"
    holder._write(path, holder._sign(9))  # it was only slow, and cannot take it back
    clock[0] += 1
    assert Claims(tmp_path, 10)._created("x") is None


@pytest.mark.slow
def test_a_process_that_is_gone_loses_it_at_once_and_another_machine_does_not(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from trainers.jobs.claims import Claims; "
    code += "Claims(Path(sys.argv[1]), 100)._created('x')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120, cwd=ROOT)
    sign = json.loads((tmp_path / "x.0.claim").read_text())
    (tmp_path / "y.0.claim").write_text(json.dumps({**sign, "machine": "another"}))
    (tmp_path / "z.0.claim").write_text(json.dumps({**sign, "pid": os.getpid()}))  # the pid of another by now
    found = [Claims(tmp_path, 100)._created(name) for name in "xyz"]
    assert [path and path.name for path in found] == ["x.1.claim", None, "z.1.claim"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 20), ('{"worker": "a', 20), ("null", 100), ("[]", 100), ('{"machine": 1}', 100)]
)
def test_a_claim_that_says_nothing_is_another_s_until_its_time_is_over(
    tmp_path: Path, clock: list[float], text: str, seconds: int
) -> None:
    """Of one that was cut off as it was written, a holder that lives has written over it in two signs' time."""
    (tmp_path / "x.0.claim").write_text(text)
    other = Claims(tmp_path, 100)
    assert other._created("x") is None
    clock[0] += seconds
    assert other._created("x") is None
    clock[0] += 0.1
    assert other._created("x") is not None


def test_who_fails_gives_it_up(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Claims(tmp_path, 100).held("x") as held:
        assert held
        raise KeyboardInterrupt
    with Claims(tmp_path, 100).held("x") as held:
        assert held
    with Claims(tmp_path, 100).held("x") as held:
        assert not held  # it ended well, and what it did shows it


def test_signs_are_given_as_long_as_it_is_held(tmp_path: Path) -> None:
    own = Claims(tmp_path, 0.04)
    with own.held("x"):
        signs = set()
        while len(signs) < 3:  # else the test would never end
            signs.add((tmp_path / "x.0.claim").read_text())


def test_where_the_folder_is_gone_there_is_nothing_to_have(tmp_path: Path) -> None:
    with Claims(tmp_path / "gone", 100).held("x") as held:
        assert not held


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("try"), st.integers(0, 3)),
        st.tuples(st.just("die"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(1, 12)),
    ),
    max_size=40,
)


@given(EVENTS)
@settings(max_examples=60, deadline=None)
def test_no_two_living_workers_have_the_same(events: list[tuple[str, int]]) -> None:
    """Workers on machines of their own try, die and wait in any order; the living give a sign every second."""
    now = [0.0]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "monotonic", lambda: now[0])
        patch.setattr(module, "_is_gone", lambda sign: False)
        workers = [Claims(Path(folder), 5) for _ in range(4)]
        held: dict[int, Path] = {}  # of the living
        signs = 0
        for event, number in events:
            if event == "try" and number not in held:
                path = workers[number]._created("x")
                if path is not None:
                    assert not held, "another one lives and has it"
                    held[number] = path
            elif event == "die" and number in held:
                del held[number]
            elif event == "wait":
                for _ in range(number):
                    now[0] += 1
                    signs += 1
                    for one, path in held.items():
                        workers[one]._write(path, workers[one]._sign(signs))
        if not held and workers[0]._created("x") is None:
            now[0] += 6
            assert workers[0]._created("x") is not None, "what the dead had comes free"
