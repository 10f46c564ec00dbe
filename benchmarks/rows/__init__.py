"""The rows. A file here is a row: `srlm_oracle.py` is `srlm-oracle`, its `run(options)` returns the outcomes."""

import importlib
import pkgutil
from collections.abc import Callable

from ..options import Options
from ..outcome import Outcome


def row_names() -> list[str]:
    """The names of all rows."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load_row(name: str) -> Callable[[Options], list[Outcome]]:
    """The function that runs a row."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").run
