"""Trainers of the three model families, their data, metrics and command line.

The names are those of `public`, which is imported, and torch with it, when the first of them is asked for: `lookback
--help` asks for none.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """A public name (PEP 562)."""
    if not name.startswith("_") or name == "__all__":
        public = import_module(f"{__name__}.public")
        if name == "__all__" or name in public.__all__:
            return getattr(public, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module(f"{__name__}.public").__all__})
