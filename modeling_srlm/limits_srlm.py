"""Settings of `reuse_states`: what it can do, and how much the store of states may take."""

import re
from decimal import Decimal
from typing import Any

from .checks_srlm import check_choice, check_number, check_positive_int

STORE_PLACES = ("device", "cpu", "disk")
STORE_DTYPES = ("float32", "bfloat16", "int8")


def check_reuse(config: Any) -> None:
    """Raise TypeError or ValueError for a setting of `reuse_states` that makes no sense, or that it rules out."""
    check_choice("store_place", config.store_place, STORE_PLACES)
    if config.store_dtype is not None:
        check_choice("store_dtype", config.store_dtype, STORE_DTYPES)
    check_number(
        "num_sink_tokens", config.num_sink_tokens, least=0, most=config.chunk_size if config.reuse_states else None
    )
    if config.store_limit is not None:
        _check_limit(config, config.store_limit)
    for name, value, why in (
        ("retrieval_method", config.retrieval_method == "oracle", "reads each key's text anew for each target"),
        ("add_sep", config.add_sep is not None, "overwrites the text of values, whose states are there already"),
    ):
        if config.reuse_states and value:
            other = "add_sep=None" if name == "add_sep" else f"another {name}"
            raise ValueError(
                f"reuse_states=True is not possible with {name}={getattr(config, name)!r}, which {why}: set "
                f"reuse_states=False, or {other}."
            )


def _check_limit(config: Any, limit: int | str) -> None:
    if isinstance(limit, str):
        parse_bytes(limit)  # what a chunk takes is known when the model is there
        return
    check_positive_int("store_limit", limit)
    least = config.context_window_size + config.key_num * config.value_size
    if limit < least:
        raise ValueError(
            f"store_limit={limit} tokens must hold the window and the retrieved values, {least} tokens: raise it, or "
            "lower context_window_size or key_num."
        )


def parse_bytes(text: str) -> int:
    """The bytes that a text such as "500MB" or "2GiB" means; ValueError for another."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b\s*", text, re.IGNORECASE)
    if found is None:
        raise ValueError(
            f"store_limit={text!r} must be a whole number of tokens, or bytes such as '500MB' or '2GiB': give one."
        )
    unit = found[2].lower()
    power = " kmgt".index(unit[:1].strip("i") or " ")
    return int(Decimal(found[1]) * (1024 if unit.endswith("i") else 1000) ** power)  # a float would lose a byte


def chunk_limit(config: Any, chunk_bytes: int) -> int | None:
    """Chunks that `store_limit` allows, of so many bytes each; None without a limit.

    Raises ValueError where these would not hold the window and the retrieved values.
    """
    limit = config.store_limit
    if not isinstance(limit, str):
        return None if limit is None else limit // config.chunk_size
    count, least = parse_bytes(limit) // chunk_bytes, config.context_window_size // config.chunk_size
    least += 2 * config.key_num
    if count < least:
        raise ValueError(
            f"store_limit={limit!r} must hold the window and the retrieved values, {least} chunks of {chunk_bytes} "
            f"bytes, {-(-least * chunk_bytes // 1000):,} kB: raise it, or lower context_window_size or key_num."
        )
    return count
