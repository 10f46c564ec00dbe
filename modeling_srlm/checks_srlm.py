# Copied from hub_cards/travelling/checks.py by "make copies": edit that one.
"""Checks of settings and keywords. Each raises before any compute and names the value, the rule and the fix."""

import functools
import inspect
import math
import os
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

MOST_LAYERS = 10_000
_COUNTS = ("max_new_tokens", "max_length", "num_beams", "num_return_sequences")  # of generate
_COUNTS_OR_NONE = ("min_new_tokens", "min_length", "prompt_lookup_num_tokens")
_SWITCHES = (
    "do_sample", "output_attentions", "output_hidden_states", "output_logits", "output_scores",
    "return_dict_in_generate", "use_cache",
)  # fmt: skip
_ONE = {NoneType: "None", bool: "True or False", int: "a whole number", float: "a finite number", str: "a text"}
_MANY = {bool: "True or False", int: "whole numbers", float: "finite numbers", str: "texts"}


def nearest(name: object, names: Iterable[str]) -> str:
    """The valid name closest to `name`, quoted: `'pooling'`."""
    return repr(get_close_matches(str(name), list(names), n=1, cutoff=0.0)[0])


def check_choice(what: str, value: object, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        known = f"it must be one of {list(choices)}. Did you mean {nearest(value, choices)}?"
        raise ValueError(f"{what}={value!r} is not known: {known}")


def check_keywords(names: Iterable[str], valid: Collection[str], owner: str) -> None:
    """Raise ValueError at the first keyword that `owner` does not take."""
    for name in names:
        if name not in valid:
            raise ValueError(
                f"{owner} has no keyword {name!r}: did you mean {nearest(name, valid)}? "
                f"Remove it or use one of {sorted(valid)}."
            )


def check_positive_int(
    what: str, value: object, fix: str = "give a whole number such as 1", most: int | None = None
) -> None:
    """Raise TypeError or ValueError unless `value` is a whole number of at least 1, and `most` at most."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what}={value!r} must be a whole number of at least 1, not {type(value).__name__}: {fix}.")
    if value < 1:
        raise ValueError(f"{what}={shown(value)} must be at least 1: {fix}.")
    if most is not None and value > most:
        raise ValueError(f"{what}={shown(value)} must be at most {most}: give a smaller one.")


def check_number(
    what: str,
    value: object,
    least: float | None = None,
    above: float | None = None,
    fix: str = "give one in that range",
    most: float | None = None,
) -> None:
    """Raise unless `value` is a finite number, `least` or more, or more than `above`, and `most` at most."""
    rule = "a finite number" + ("" if least is None else f" of at least {least:g}")
    rule += "" if above is None else f" above {above:g}"
    rule += "" if most is None else f" and at most {most:g}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{what}={value!r} must be {rule}, not {type(value).__name__}: {fix}.")
    fits = _is_finite(value) and (least is None or value >= least) and (above is None or value > above)
    if not fits or (most is not None and value > most):
        raise ValueError(f"{what}={shown(value)} must be {rule}: {fix}.")


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
    if isinstance(values, str | bytes | bytearray) or not isinstance(values, Sequence):
        raise TypeError(f"{what}={values!r} must be a list of token ids: tokenize the text first.")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{what} holds {value!r}, which must be a whole number: give token ids, not tokens.")
        if value < 0:
            raise ValueError(f"{what} holds {value}, and token ids must not be negative: remove it.")


def check_mask(what: str, mask: Any) -> None:
    """Raise TypeError or ValueError unless the tensor `mask` says 1 (True) at tokens and 0 (False) at padding."""
    if mask.is_complex():
        raise TypeError(f"{what} has dtype {mask.dtype}, and must say 1 at tokens and 0 at padding: use .long().")
    wrong = (mask != 0) & (mask != 1)
    if wrong.any():
        raise ValueError(
            f"{what} holds {mask[wrong][0].item():g}, and must be 1 at tokens and 0 at padding: give such a mask (one "
            "that is added to attention scores is none)."
        )


def generation_numbers(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of `generate`; TypeError or ValueError for counts and switches that are none."""
    found = {name: value for name, value in given.items() if value is not None or name not in _COUNTS}
    for names, least in ((_COUNTS, 1), (_COUNTS_OR_NONE, 0)):
        for name in names:
            if (value := typed(name, found.get(name), int | None)) is not None:
                if not least <= value < 2**31:
                    raise ValueError(f"{name}={shown(value)} must be from {least} to {2**31 - 1}: give such a number.")
                found[name] = value
    for name in _SWITCHES:
        typed(name, found.get(name), bool | None)
    return found


def shown(value: object) -> str:
    """A value as an error names it, of any size."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    short.maxlong = 40
    try:
        return short.repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return f"<{type(value).__name__}>"


def check_fields(settings: Any, kind: type, but: Collection[str] = ()) -> None:
    """`check_types` of the fields that the dataclass `kind` itself names; None may stand where it is the default."""
    named = inspect.get_annotations(kind)
    own = [entry for entry in fields(kind) if entry.name in named and entry.name not in but]
    types: dict[str, Any] = {entry.name: entry.type for entry in own}
    check_types(settings, {e.name: types[e.name] | None if e.default is None else types[e.name] for e in own})


def check_types(settings: Any, types: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for the first attribute of `settings` that is not of its type (see `typed`).

    NumPy's numbers become Python's, which a saved configuration can hold, and paths where a text is asked for texts.
    """
    for name, hint in types.items():
        if (found := typed(name, value := getattr(settings, name), hint)) is not value:
            setattr(settings, name, found)


def typed(what: str, value: Any, hint: Any) -> Any:
    """`value`, NumPy's numbers in it as Python's own; TypeError or ValueError unless it is of the type `hint`.

    True is no whole number here, a whole number is a `float`, and NaN and infinity are none.
    """
    found = plain(value)
    found = (
        os.fspath(found) if isinstance(found, os.PathLike) and _fits("", hint) and not _fits(found, hint) else found
    )
    if _fits(found, hint):
        return found
    rule = " or ".join(_described(one) for one in _alternatives(hint))
    if isinstance(found, int | float) and not isinstance(found, bool) and _fits(0.5, hint):
        raise ValueError(f"{what}={shown(value)} must be {rule}: give one.")
    inside = isinstance(found, list | tuple | Mapping) and any(get_args(one) for one in _alternatives(hint))
    kind = "" if inside else f", not {type(value).__name__}"  # else it is a part of the value that is wrong
    raise TypeError(f"{what}={shown(value)} must be {rule}{kind}: give one.")


def checked(function: Any) -> Any:
    """`function`, which raises TypeError or ValueError for an argument that is not of its annotation (see `typed`).

    Held to it are numbers, switches, texts, paths and objects of one class; lists and mappings are for the function.
    """

    @functools.wraps(function)
    def held(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        hints = get_type_hints(function)
        for name, value in given.arguments.items():
            kinds = _alternatives(hints.get(name, Any))
            if name in hints and all(isinstance(kind, type) and not get_args(kind) for kind in kinds):
                given.arguments[name] = typed(name, value, hints[name])
        return function(*given.args, **given.kwargs)

    signature = inspect.signature(function)
    return held


def plain(value: Any) -> Any:
    """A number of NumPy as Python's own, those of a list or tuple too; anything else as it is."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    if type(value) in (list, tuple) and any(type(part).__module__ == "numpy" for part in value):
        return type(value)(plain(part) for part in value)
    return value


def _alternatives(hint: Any) -> list[Any]:
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return sorted((NoneType if part is None else part for part in parts), key=lambda part: part is not NoneType)


def _fits(value: Any, hint: Any) -> bool:
    return any(_is_one(value, kind) for kind in _alternatives(hint))


def _is_one(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return number and (kind is int or _is_finite(value))
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin is Any or not isinstance(origin, type):
        return True  # no rule that is known here
    if issubclass(origin, Mapping):
        pairs = isinstance(value, Mapping) and (value.items() if parts else ())
        return pairs is not False and all(_fits(key, parts[0]) and _fits(one, parts[1]) for key, one in pairs)
    if origin is not str and issubclass(origin, Sequence):
        listed = isinstance(value, list | tuple if origin in (list, tuple) else origin)
        return listed and not isinstance(value, str | bytes) and all(_fits(one, parts[0]) for one in value if parts)
    return isinstance(value, origin)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _described(kind: Any) -> str:
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a dict of {_several(parts[1])} by name" if parts else "a dict"
    if isinstance(origin, type) and origin is not str and issubclass(origin, Sequence):
        return f"a list of {_several(parts[0])}" if parts else "a list"
    return _ONE.get(kind) or f"of type {getattr(kind, '__name__', kind)}"


def _several(kind: Any) -> str:
    return _MANY.get(kind) or f"{getattr(get_origin(kind) or kind, '__name__', kind)}s"
