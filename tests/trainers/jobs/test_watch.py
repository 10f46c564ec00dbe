"""A process that vanishes without a word ends the job; one that is slow, stopped for a while or done does not."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from torch.distributed import HashStore

from trainers.jobs.watch import Watch, peer_timeout

SECONDS = 0.4


def watches(processes, **settings):
    """The watches of some processes that meet in one store, and the silent ones that each of them saw."""
    store, seen = HashStore(), {}
    made = [
        Watch(
            store, rank, set(range(processes)) - {rank}, SECONDS, lambda silent, rank=rank: seen.update({rank: silent})
        )
        for rank in range(processes)
    ]
    return made, seen


def test_a_process_that_vanishes_is_named(monkeypatch):
    (first, second, third), seen = watches(3)
    first.start()
    second.start()
    third.start()
    time.sleep(SECONDS)
    third.ended.wait = lambda seconds: time.sleep(60)  # it hangs
    time.sleep(4 * SECONDS)
    assert seen == {0: [2], 1: [2]}


def test_one_that_never_came_is_named():
    (first, _), seen = watches(2)
    first.start()
    time.sleep(3 * SECONDS)
    assert seen == {0: [1]}


def test_those_who_live_or_are_done_are_waited_for():
    (first, second, third), seen = watches(3)
    for watch in (first, second, third):
        watch.start()
    time.sleep(SECONDS)
    third.end()
    time.sleep(4 * SECONDS)
    assert not seen
    first.end()
    second.end()


@pytest.mark.parametrize("of_launcher", [False, True])
def test_a_store_that_is_gone_is_no_silence_but_the_launchers_end(monkeypatch, of_launcher):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", str(of_launcher))

    class Gone:
        def set(self, *args):
            raise RuntimeError("Connection reset by peer")

    seen = []
    watch = Watch(Gone(), 0, [1], SECONDS, seen.append)
    watch.start()
    time.sleep(2 * SECONDS)
    assert seen == ([[]] if of_launcher else [])
    ending = Watch(Gone(), 0, [1], SECONDS, seen.append)
    ending.ended.set()  # it says so to a store that has gone first
    ending.start()
    time.sleep(SECONDS)
    assert len(seen) == of_launcher


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none(monkeypatch, value):
    monkeypatch.setenv("LOOKBACK_PEER_TIMEOUT", value)
    with pytest.raises(ValueError, match=f"LOOKBACK_PEER_TIMEOUT='{value}' must be a number of seconds above 0"):
        peer_timeout()


JOB = """
import os, signal, sys, time
from trainers.jobs.processes import start_processes
state = start_processes()
if state.process_index == int(sys.argv[1]):
    if sys.argv[2] == "vanishes":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(5)  # longer than the silence that is allowed
state.wait_for_everyone()
if sys.argv[2] == "is done early" and state.process_index != int(sys.argv[1]):
    time.sleep(5)
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("how", ["vanishes", "is slow", "is done early"])
def test_processes_without_a_launcher(who, how):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    given = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given |= {"LOOKBACK_PEER_TIMEOUT": "3", "ACCELERATE_USE_CPU": "true"}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, str(who), how], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **given, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        other = jobs[1 - who]
        output, errors = other.communicate(timeout=120)
        if how == "vanishes":
            assert other.returncode == 1
            assert f"Nothing was heard of process {who} for 3 seconds" in errors
        else:
            assert (other.returncode, jobs[who].wait(60)) == (0, 0), errors
            assert "done" in output
    finally:
        for job in jobs:
            job.send_signal(signal.SIGKILL)
            job.wait()
