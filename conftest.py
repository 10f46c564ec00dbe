"""What every worker of pytest-xdist sets before the first tensor: one thread, for itself and the processes it starts.

Tiny models are no faster on two threads, and the workers would take each other's cores.
"""

import os

collect_ignore = ["tests/fixtures"]  # code of repos, to be loaded from there
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402  (it reads the environment)

torch.set_num_threads(1)
