"""A disk that is full: one line and exit status 2, nothing half-written; with space the command goes on to its end."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults.jobs import JOBS
from tests.support.faults.kills import SEED
from tests.support.faults.runs import Server

PAGE = 4096


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system may not be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


def used(folder: Path) -> int:
    """Bytes of whole pages."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())


@pytest.mark.faults
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("job", JOBS)
def test_a_full_disk_is_one_line(
    commands: Server, data: Path, tmp_path: Path, small: Path, job: str, part: int
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    assert commands.run(JOBS[job].argv(data, whole)).status == 0
    drawn = random.Random(f"{SEED} {job} {part}").uniform(part / 5, (part + 1) / 5)
    place = small / "place"
    place.mkdir()
    resize(small, max(int(used(whole) * drawn), PAGE))
    argv = JOBS[job].argv(data, place)
    ended = commands.run(argv)
    about = f"LOOKBACK_FAULT_SEED={SEED}, {drawn:.3f} of {used(whole)} bytes: {ended.status} {ended.said[-3000:]}"
    assert ended.status == 2, about
    assert ended.message.startswith(f"lookback {job}: ") and "space" in ended.message, about
    assert "Traceback" not in ended.said, about
    output = place / JOBS[job].output
    assert not (output / "model.safetensors").exists() if JOBS[job].trains else not output.exists(), about
    resize(small, 1 << 28)
    again = commands.run(argv)
    assert again.status == 0, f"{about}\n{again.said[-3000:]}"
    JOBS[job].assert_same(whole, place)
