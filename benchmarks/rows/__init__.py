"""The rows. A file here is a row: `srlm_oracle.py` is `srlm-oracle`, its `run(options)` returns the outcomes."""

import importlib
import pkgutil
from collections.abc import Callable

from ..options import Options
from ..outcome import Outcome

SLOW = ("srlm-document", "srlm-generate", "srlm-reuse")  # beginnings of the names of rows that take minutes

ENCODER_ROWS = ("biencoder-memory", "biencoder-step", "encode")  # the only ones that an encoder can run


def row_names() -> list[str]:
    """The names of all rows."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def quick_rows() -> list[str]:
    """The names of the rows that take a minute or two at most."""
    return [name for name in row_names() if not name.startswith(SLOW)]


def load_row(name: str) -> Callable[[Options], list[Outcome]]:
    """The function that runs a row."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").run
