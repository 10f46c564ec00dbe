"""A Hub of its own on 127.0.0.1, for tests: the real huggingface_hub client pushes to it and pulls from it.

The client must use plain LFS (`HF_HUB_DISABLE_XET=1`, which `environment` and `in_process` set): Xet's own storage
protocol is not spoken here.
"""

from .client import environment, in_process
from .faults import Fault
from .repos import Commit, Repo
from .server import LoopbackHub

__all__ = ["Commit", "Fault", "LoopbackHub", "Repo", "environment", "in_process"]
