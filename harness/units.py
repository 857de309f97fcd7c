"""Sizes of memory in words: GB is 10^9 bytes, GiB is 2^30."""

from __future__ import annotations

import math
import re

from harness.errors import HarnessError

_UNITS: dict[str, int] = {"": 1, "B": 1} | {
    f"{letter}{i}B": base**power
    for power, letter in enumerate("KMGT", start=1)
    for i, base in (("", 1000), ("i", 1024))
}


def bytes_of(text: str) -> int:
    """Return the bytes that a size such as `24GB`, `1.5 GiB` or `500MB` names.

    Raises:
        HarnessError: it is no size, or none above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if found is None or found[2].lower() not in units:
        raise HarnessError(f"{text!r} is no size of memory; write it like 24GB (10^9 bytes) or 24GiB (2^30)")
    size = math.floor(float(found[1]) * units[found[2].lower()])
    if size < 1:
        raise HarnessError(f"{text!r} is no memory at all; give at least 1 byte, for example 24GB")
    return size
