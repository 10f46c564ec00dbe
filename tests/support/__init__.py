"""What tests share: tiny models, small data, a Hub on this machine; no test file imports another."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]  # of the project
GOLDEN = ROOT / "tests" / "golden"  # figures of the original code
FIXTURES = ROOT / "tests" / "fixtures"  # repos as earlier versions saved them


def quick_first(values: Iterable[Any]) -> list[Any]:
    """Values for `parametrize`: the first runs by default, the others with the slow tests."""
    first, *others = values
    slow = pytest.mark.slow
    return [first, *(pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=slow) for v in others)]
