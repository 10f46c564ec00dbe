"""Fixtures of tests in more than one folder."""

import os
import random
from pathlib import Path

import pytest

from hub_cards import write_card
from modeling_biencoder import modeling_biencoder
from tests.support.cards import EMPTY, fake_model
from tests.support.loopback_hub.fixtures import hub as hub

SEED = "LOOKBACK_FAULT_SEED"  # of the choices in tests/faults


def pytest_configure() -> None:
    # The processes of pytest-xdist inherit it: one seed a run.
    os.environ.setdefault(SEED, str(random.SystemRandom().randrange(10**6)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `cases(n)` the default suite runs n of its cases, spread over them; the others are slow."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("cases") is not None:
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in tests.values():
        count = min(cases[0].get_closest_marker("cases").args[0], len(cases))
        chosen = {len(cases) * number // count for number in range(count)}
        for number, item in enumerate(cases):
            if number not in chosen:
                item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if "faults" in terminalreporter.config.option.markexpr.replace("not faults", ""):
        terminalreporter.write_line(f"{SEED}={os.environ[SEED]} repeats the choices of this run.")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A repo on the disk that is complete by the names of its files and holds no weights."""
    folder = tmp_path / "saved"
    write_card(fake_model(), folder)
    for name in ("config.json", "model.safetensors", "modeling_biencoder.py", "retriever/tokenizer.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(EMPTY)
    (folder / "modeling_biencoder.py").write_bytes(Path(modeling_biencoder.__file__).read_bytes())
    return folder
