"""What a column holds: of values that were read one by one, and of a data set that has types."""

import functools
import json
from typing import Any

import datasets


def kind_of(value: Any) -> str:
    """ "text", "texts", "number", "numbers", "other" or "none": what a cell holds."""
    if isinstance(value, list):
        inner = next((kind_of(part) for part in value if part is not None), "none")
        return {"text": "texts", "number": "numbers", "none": "none"}.get(inner, "other")
    if value is None:
        return "none"
    return "text" if isinstance(value, str) else "number" if isinstance(value, int | float) else "other"


TEXT, _INTEGER, _NUMBER = (datasets.Value(name) for name in ("string", "int64", "float64"))


def feature_of(value: Any) -> Any:
    """What a cell is stored as; None: as anything."""
    if isinstance(value, list):
        features = [feature for part in value if (feature := feature_of(part)) is not None]
        return datasets.List(functools.reduce(join_features, features)) if features else None
    if value is None:
        return None
    if isinstance(value, bool):
        return datasets.Value("bool")
    if isinstance(value, int):
        return _INTEGER if -(1 << 63) <= value < 1 << 63 else TEXT
    return _NUMBER if isinstance(value, float) else TEXT


def join_features(one: Any, other: Any) -> Any:
    """What holds both, text if nothing else does."""
    if one is None or other is None or one == other:
        return one if other is None else other
    if isinstance(one, datasets.List) and isinstance(other, datasets.List):
        return datasets.List(join_features(one.feature, other.feature))
    if isinstance(one, datasets.List) or isinstance(other, datasets.List):
        return TEXT
    return _NUMBER if {one.dtype, other.dtype} == {"int64", "float64"} else TEXT


def fit_row(row: dict[str, Any], number: int, features: datasets.Features) -> dict[str, Any]:
    """A row with a cell for each feature, as its JSON where it is no such value."""
    return {name: _fit(row.get(name), feature) for name, feature in features.items()}


def _fit(value: Any, feature: Any) -> Any:
    if isinstance(feature, datasets.List) and isinstance(value, list):
        return [_fit(part, feature.feature) for part in value]
    return json.dumps(value) if feature == TEXT and not isinstance(value, str | None) else value


def kind_of_feature(feature: Any) -> str:
    """`kind_of` the values that a column of a data set holds."""
    if isinstance(feature, datasets.List | datasets.LargeList):
        return {"text": "texts", "number": "numbers"}.get(kind_of_feature(feature.feature), "other")
    if isinstance(feature, datasets.ClassLabel):
        return "number"
    dtype = str(getattr(feature, "dtype", "other"))
    if dtype in ("string", "large_string", "null"):
        return "none" if dtype == "null" else "text"
    return "number" if dtype.startswith(("int", "uint", "float", "bool")) else "other"
