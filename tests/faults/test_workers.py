"""One of two workers is killed: the other one ends with an error, without a launcher that would end it."""

import socket
import time
from pathlib import Path

import pytest

from tests.support.faults.jobs import JOBS
from tests.support.faults.runs import Server, files

LIMIT = 60.0


def environments() -> list[dict[str, str]]:
    """What a launcher tells each of two workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def wait_for(folder: Path, name: str) -> None:
    until = time.monotonic() + LIMIT
    while not any(name in path for path in files(folder)):
        assert time.monotonic() < until, f"no {name} in {files(folder)}"
        time.sleep(0.005)


@pytest.mark.faults
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize(
    ("job", "awaited"),
    [
        ("finetune", "checkpoint-3/"),
        ("pretrain", "checkpoint-3/"),
        ("train-lm", "checkpoint-3/"),
        ("score", "part-00001"),
        ("mine", "part-00001"),
        ("encode", "embeddings-000001"),
    ],
)
def test_the_other_worker_ends(
    commands: Server, data: Path, tmp_path: Path, job: str, awaited: str, killed: int
) -> None:
    argv = JOBS[job].argv(data, tmp_path)
    workers = [commands.start(argv, env=environment) for environment in environments()]
    try:
        wait_for(tmp_path, awaited)
        workers[killed].kill()
        ended = workers[1 - killed].wait(LIMIT)
        assert ended.status > 0, ended
    finally:
        for worker in workers:
            worker.kill()
    assert not (tmp_path / JOBS[job].output / "model.safetensors").exists()
    assert JOBS[job].trains or not (tmp_path / JOBS[job].output).exists()
