# Copied from hub_cards/travelling/checks.py by "make copies": edit that one.
"""Checks of settings and keywords. Each raises before any compute and names the value, the rule and the fix."""

import math
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

MOST_LAYERS = 10_000


def nearest(name: object, names: Iterable[str]) -> str:
    """The valid name closest to `name`, quoted: `'pooling'`."""
    return repr(get_close_matches(str(name), list(names), n=1, cutoff=0.0)[0])


def check_choice(what: str, value: object, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{what}={value!r} is not known: it must be one of {list(choices)}. "
            f"Did you mean {nearest(value, choices)}?"
        )


def check_keywords(names: Iterable[str], valid: Collection[str], owner: str) -> None:
    """Raise ValueError at the first keyword that `owner` does not take."""
    for name in names:
        if name not in valid:
            raise ValueError(
                f"{owner} has no keyword {name!r}: did you mean {nearest(name, valid)}? "
                f"Remove it or use one of {sorted(valid)}."
            )


def check_positive_int(what: str, value: object, fix: str = "give a whole number such as 1") -> None:
    """Raise TypeError or ValueError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what}={value!r} must be a whole number of at least 1, not {type(value).__name__}: {fix}.")
    if value < 1:
        raise ValueError(f"{what}={value} must be at least 1: {fix}.")


def check_number(
    what: str,
    value: object,
    least: float | None = None,
    above: float | None = None,
    fix: str = "give one in that range",
) -> None:
    """Raise TypeError or ValueError unless `value` is a finite number, `least` or more, or more than `above`."""
    rule = "a finite number" + ("" if least is None else f" of at least {least:g}")
    rule += "" if above is None else f" above {above:g}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{what}={value!r} must be {rule}, not {type(value).__name__}: {fix}.")
    if not math.isfinite(value) or (least is not None and value < least) or (above is not None and value <= above):
        raise ValueError(f"{what}={value} must be {rule}: {fix}.")


def check_bool(what: str, value: object) -> None:
    """Raise TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{what}={value!r} must be True or False, not {type(value).__name__}: give one of the two.")


def check_layers(what: str, config: Any) -> None:
    """Raise ValueError for a backbone's configuration of more layers than any model has: building it would not end."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise ValueError(f"{what} asks for {layers} layers, and must have at most {MOST_LAYERS}: do not load it.")


def check_token_ids(what: str, values: object) -> None:
    """Raise TypeError or ValueError unless `values` is a sequence of token ids: whole numbers, none negative."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{what}={values!r} must be a list of token ids: tokenize the text first.")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{what} holds {value!r}, which must be a whole number: give token ids, not tokens.")
        if value < 0:
            raise ValueError(f"{what} holds {value}, and token ids must not be negative: remove it.")
