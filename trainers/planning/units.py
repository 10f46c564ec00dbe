"""Numbers of bytes, counts and times, as a person writes and reads them."""

import math
import re
from decimal import Decimal

from modeling_srlm.limits_srlm import parse_bytes

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}


def in_units(size: float) -> str:
    """A number of bytes to read.

    >>> in_units(0), in_units(1536), in_units(3 * 2**30)
    ('0 B', '1.5 KiB', '3.0 GiB')
    """
    power = min(int(math.log(size, 1024)), len(_UNITS) - 1) if size >= 1 else 0
    return f"{size / 1024**power:.1f} {_UNITS[power]}" if power else f"{size:.0f} B"


def bytes_of(name: str, text: str) -> int:
    """The bytes that `text` means, such as 80GB or 79.2GiB; ValueError, naming the setting, for another.

    >>> bytes_of("gpu_memory", "80GB"), bytes_of("gpu_memory", "1.5 GiB"), bytes_of("gpu_memory", "2.01kB")
    (80000000000, 1610612736, 2010)
    """
    try:
        size = parse_bytes(text)
    except ValueError:
        size = 0
    if size < 1:
        raise ValueError(f"--{name}={text!r} must be a number of bytes above 0, such as 80GB or 24GiB: give one.")
    return size


def count_of(name: str, text: str) -> int:
    """The whole number that `text` means, such as 250k, 10M or 1B; ValueError, naming the setting, for another.

    >>> count_of("passages", "10M"), count_of("passages", "2.01k"), count_of("passages", "12_000")
    (10000000, 2010, 12000)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmbgt]?)", text.replace("_", "").replace(",", "").strip(), re.IGNORECASE)
    # Decimal: 2.01 * 1000 is 2009.9999999999998 as a float
    number = Decimal(found[1]) * _COUNTS[found[2].lower()] if found else 0
    if number < 1 or number != int(number):
        raise ValueError(f"--{name}={text!r} must be a whole number above 0, such as 250k, 10M or 1B: give one.")
    return int(number)


def large(number: float) -> str:
    """A number of operations to read.

    >>> large(950.0), large(2.62e13), large(4e19)
    ('950', '26.2 T', '40.0 E')
    """
    power = max(min(int(math.log10(number)) // 3, 6), 0) if number >= 1 else 0
    return f"{number / 1000**power:.1f} {' kMGTPE'[power]}" if power else f"{number:.0f}"


def hours(seconds: float) -> str:
    """A time to read.

    >>> hours(30), hours(7200), hours(864000)
    ('0.5 minutes', '2.0 hours', '240 hours (10.0 days)')
    """
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 3600:,.0f} hours ({seconds / 86400:,.1f} days)"
