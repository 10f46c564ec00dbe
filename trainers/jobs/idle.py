"""Options that would do nothing where they stand: refused by name, before any work is done."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from hub_cards.travelling.checks import shown

_BOTH = "give that too, or leave it out"


def refuse_idle(settings: Any, names: Iterable[str], why: str, fix: str = "leave it out", mark: str = "--") -> None:
    """ValueError for the first of the named fields of a dataclass that is not at its default.

    Args:
        why: what makes it idle, such as "for --mteb".
        mark: what the command line puts before a name, of a command's own options.
    """
    standard = defaults_of(settings)
    for name in names:
        if (value := getattr(settings, name)) != standard.get(name):
            raise ValueError(f"{mark}{name}={shown(value)} has no meaning {why}: {fix}.")


def refuse_without(settings: Any, needed: str, names: Iterable[str], mark: str = "--") -> None:
    """The same where another option would have to be given: `needed`, named here as the command line has it."""
    refuse_idle(settings, names, f"without {mark}{needed}", _BOTH, mark)


def defaults_of(settings: Any) -> dict[str, Any]:
    """{name: value} of a dataclass's fields; those that have no default are left out."""
    made = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(settings)
    }
    return {name: value for name, value in made.items() if value is not dataclasses.MISSING}


def refuse_revisions(options: Mapping[str, Any]) -> None:
    """ValueError for the revision of a folder, which has none: `X_revision` of `X`, and `revision` of the model."""
    for name, value in options.items():
        of = [name.removesuffix("_revision")] if name.endswith("_revision") else ["teacher", "inspect", "model"]
        source = next((one for one in of if options.get(one) is not None), None)
        if value is None or not name.endswith("revision") or source is None:
            continue
        if isinstance(place := options[source], str) and os.path.isdir(place):
            raise ValueError(
                f"--{name}={value!r} is of a repo on the Hub, and --{source}={place!r} is a folder: leave it out."
            )
