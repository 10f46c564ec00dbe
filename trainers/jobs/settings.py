"""The settings of a run, kept as JSON beside what it has done: it goes on only where they are the same."""

import json
from pathlib import Path
from typing import Any

# What the settings and outputs of earlier versions do not have: it is compared where both sides have it.
ALL_WEIGHTS, TOKENIZER = "sha256 of all weights", "sha256 of the tokenizer"
BACKBONE = "sha256 of the backbone's configuration"
WHOLE_RETRIEVER = "sha256 of all of the retriever"
_LATER = (ALL_WEIGHTS, TOKENIZER, BACKBONE, WHOLE_RETRIEVER)


def check_same_run(kept: Path, settings: dict[str, Any], fix: str = "remove that folder") -> None:
    """ValueError for a run whose settings, kept in a file of its folder, are others, or are not to be read."""
    try:
        before = json.loads(kept.read_text(encoding="utf-8"))
        assert isinstance(before, dict)
    except (ValueError, AssertionError):
        raise ValueError(f"{kept} is damaged, and must hold the settings of an interrupted run: {fix}.") from None
    if differences := differing(before, settings):
        raise ValueError(
            f"{kept.parent} holds an interrupted run of another kind: {differences}. Run it as it was to go on with "
            f"it, or {fix}."
        )


def differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How settings that were saved as JSON differ from these, in words; "" where they do not."""
    now = json.loads(json.dumps(now))
    return "; ".join(
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name) and not (name in _LATER and (name not in before or name not in now))
    )
