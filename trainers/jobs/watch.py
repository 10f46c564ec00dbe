"""Signs of life among the processes of a job: where one vanishes, the others end instead of waiting for it.

A process that is killed closes its connections, and whoever waits for it has an error at once. A machine that loses
its network, or hangs, closes nothing, and torch waits as long as the job may take. So every process counts up a number
in the store where the processes met, and one that is silent for PEER_TIMEOUT ends the others. Where torchrun has that
store, its end is theirs: nobody else would end them, or start them again.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch

INTERVAL = 10.0  # seconds between two signs
PEER_TIMEOUT = 600.0  # seconds of silence; LOOKBACK_PEER_TIMEOUT says otherwise
_ENDED = b"ended"


def peer_timeout() -> float:
    """Seconds; ValueError where LOOKBACK_PEER_TIMEOUT is no number above 0."""
    given = os.environ.get("LOOKBACK_PEER_TIMEOUT") or str(PEER_TIMEOUT)
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"LOOKBACK_PEER_TIMEOUT={given!r} must be a number of seconds above 0: give one such as 600.")
    return seconds


@cache
def watch_once(rank: int, processes: int, seconds: float) -> None:
    """Gives signs of life from now to this process's end, and ends it where another one gives none for so long."""
    # torch has no public name for the store where the processes met (2.13).
    store = torch.distributed.distributed_c10d._get_default_store()
    watch = Watch(store, rank, [peer for peer in range(processes) if peer != rank], seconds)
    watch.start()
    atexit.register(watch.end)


class Watch:
    """Two threads: one talks to the store, and may have to wait for that; the other counts how long it was silent.

    Args:
        peers: numbers of the other processes.
        give_up: called with the numbers of the silent ones; with none where the launcher is gone that held the store.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        peers: Iterable[int],
        seconds: float,
        give_up: Callable[[list[int]], None] | None = None,
    ):
        self.store, self.rank, self.seconds = store, rank, seconds
        self.interval = min(INTERVAL, seconds / 4)
        self.give_up = give_up or _end_process
        # Of each peer its last sign, and for how many intervals it is the last one. They are counted, not timed: a
        # process that was stopped for a while itself has seen nothing in that time.
        self.signs, self.silent = dict.fromkeys(peers, b""), dict.fromkeys(peers, 0)
        self.ended = threading.Event()

    def start(self) -> None:
        """Gives the first sign, and starts the threads."""
        self.talk = threading.Thread(target=self._talk, daemon=True)
        self.talk.start()
        threading.Thread(target=self._count, daemon=True).start()

    def end(self) -> None:
        """The last sign: nobody waits for this process any more."""
        self.ended.set()
        if self.talk.is_alive():
            self.talk.join(self.interval)

    def _talk(self) -> None:
        number = 0
        try:
            while not self.ended.wait(self.interval if number else 0):
                self.store.set(_key(self.rank), str(number))
                number += 1
                for peer in list(self.signs):
                    self._look_at(peer)
            self.store.set(_key(self.rank), _ENDED)
        except RuntimeError:  # the store is gone with its process
            if not self.ended.is_set() and _launcher_has_store():
                self.give_up([])
            self.ended.set()  # where it was a worker's, torch's connections to that one are closed, too

    def _look_at(self, peer: int) -> None:
        if not self.store.check([_key(peer)]):
            return
        sign = self.store.get(_key(peer))
        if sign == _ENDED:
            del self.signs[peer], self.silent[peer]
        elif sign != self.signs[peer]:
            self.signs[peer], self.silent[peer] = sign, 0

    def _count(self) -> None:
        while not self.ended.wait(self.interval):
            for peer in list(self.silent):
                self.silent[peer] = self.silent.get(peer, 0) + 1
            silent = [peer for peer, intervals in self.silent.items() if intervals * self.interval > self.seconds]
            if silent:
                self.give_up(silent)
                return


def _launcher_has_store() -> bool:
    """Whether torchrun itself has the store: it lives as long as its workers do, unless it is killed."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _key(rank: int) -> str:
    return f"lookback/alive/{rank}"


def _end_process(silent: list[int]) -> None:
    names = ", ".join(map(str, sorted(silent)))
    what = f"Nothing was heard of process {names} for {peer_timeout():g} seconds (LOOKBACK_PEER_TIMEOUT)"
    if not silent:
        what = "torchrun, which started this process, is gone"
    print(
        f"{what}, so this one ends: see to its machine and start the job again. What is done stays done.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)  # the main thread waits for the network, where no exception reaches it
