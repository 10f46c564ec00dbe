"""What every worker of pytest-xdist sets before the first tensor: one thread, for itself and the processes it starts.

Tiny models are no faster on two threads, and the workers would take each other's cores.
"""

import gc
import os

# Code of repos, to be loaded from there; and no tests, but what takes seconds to import.
collect_ignore = ["tests/fixtures", "tests/support"]
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
gc.disable()  # while a million objects are imported, which stay: see below

import torch  # noqa: E402  (it reads the environment)

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """The collector of cycles, which every training calls, need not look through what is imported each time."""
    gc.freeze()
    gc.enable()
