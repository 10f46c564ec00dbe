"""A server of runs, and models and data for them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults.jobs import prepare
from tests.support.faults.runs import Server, server


@pytest.fixture(scope="session")
def commands() -> Iterator[Server]:
    if not hasattr(os, "fork") or not Path("/proc").is_dir():
        pytest.skip("needs Linux")
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("data"))
