"""The header of a safetensors file: names, types and shapes of its tensors, without the tensors themselves.

The format is that of https://huggingface.co/docs/safetensors: 8 bytes with the header's length, the header as JSON,
the tensors one behind the other without holes.

The libraries' readers refuse less: huggingface_hub's takes types, shapes and places as they stand in the header, and
reads a whole file where a server knows no ranges; safetensors' own takes a name that stands twice, and needs a file.
"""

import json
import math
from collections.abc import Callable
from typing import Any

MAX_HEADER = 100_000_000  # bytes; the safetensors library reads no longer one
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
Shapes = dict[str, tuple[int, ...]]


def read_shapes(read: Callable[[int, int], bytes], size: int) -> Shapes:
    """{name: shape} of the tensors of a file of `size` bytes; `read(start, length)` gives bytes of it.

    Raises ValueError, which says what is wrong, for a header that is broken or does not fit the file.
    """
    start = read(0, 65536)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(size - 8, MAX_HEADER):
        raise ValueError(f"its header would have {length:,} bytes, the file has {size:,}: it is no safetensors file")
    if length + 8 > len(start):
        start += read(len(start), length + 8 - len(start))
    try:
        header = json.loads(start[8 : 8 + length], object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    shapes, spans = {}, []
    for name, entry in header.items():
        shapes[name], span = _tensor(name, entry)
        spans.append(span)
    _check_spans(sorted(spans), size - 8 - length)
    return shapes


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(names := dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice")
    return names


def _tensor(name: str, entry: Any) -> tuple[tuple[int, ...], tuple[int, int]]:
    try:
        bits, shape, (begin, end) = _BITS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        right = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r} has no known type, shape and place in the header") from error
    if not right or (end - begin) * 8 != math.prod(shape) * bits:
        raise ValueError(f"tensor {name!r} of shape {shape} does not fill its place in the file, {begin} to {end}")
    return tuple(shape), (begin, end)


def _check_spans(spans: list[tuple[int, int]], size: int) -> None:
    last = 0
    for begin, end in spans:
        if begin != last:
            raise ValueError(f"its tensors overlap or leave a hole at byte {last:,} of the data")
        last = end
    if last > size:
        raise ValueError(f"it is truncated: the tensors need {last:,} bytes and {size:,} are there")
    if last < size:
        raise ValueError(f"{size - last:,} bytes behind the last tensor belong to nothing")
