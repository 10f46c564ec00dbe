"""Pointing the real client at a loopback Hub: in a process that is started, or in this one."""

import os
from pathlib import Path
from typing import Any

import huggingface_hub.hf_api
import transformers.utils.hub
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from .server import LoopbackHub


def environment(hub: LoopbackHub, home: str | Path, token: str | None = None) -> dict[str, str]:
    """Variables for a new process, whose cache lies in `home`; without `token` it is not logged in."""
    return {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": token or "", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
    }  # fmt: skip


def in_process(hub: LoopbackHub, monkeypatch: Any, home: str | Path, token: str | None = None) -> None:
    """The same in this process, until `monkeypatch` undoes it: the client reads its variables at import."""
    for name, value in environment(hub, home, token).items():
        monkeypatch.setenv(name, value)
    values: dict[str, object] = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": os.path.join(home, "hub"),
        "HF_TOKEN_PATH": os.path.join(home, "token"),
        "HF_STORED_TOKENS_PATH": os.path.join(home, "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, setting in values.items():
        monkeypatch.setattr(constants, name, setting)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    close_session()
