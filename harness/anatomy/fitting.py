"""The largest batch that fits: doubling until one does not, then halving the gap. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

RESOLUTION = 16
"""The gap between what fits and what does not is closed to this part of the batch."""
MOST = 2**16
"""Samples per GPU: a batch beyond is no use in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """What a search found."""

    batch_size: int | None
    """Per GPU; None if not even one sample fits."""
    images_per_s: float | None
    """With it, over all GPUs."""
    refused: int | None
    """The smallest batch that did not fit; None where the search ended at its own limit."""
    tried: dict[int, float | None]
    """Throughput of every batch that was tried; None did not fit."""


def largest(throughput: Callable[[int], float | None], *, start: int, divisor: int = 1) -> Largest:
    """Search for the largest batch that fits.

    Args:
        throughput: images/s with a batch per GPU, or None if it does not fit.
        start: the first batch that is tried.
        divisor: of every batch that is tried: micro-batches are equal parts.
    """
    tried: dict[int, float | None] = {}

    def fits(parts: int) -> bool:
        tried[parts * divisor] = throughput(parts * divisor)
        return tried[parts * divisor] is not None

    low, high = 0, max(1, start // divisor)
    most = max(high, MOST // divisor)
    while fits(high):
        low = high
        if high == most:
            break
        high = min(2 * high, most)
    while low < high and high - low > max(1, low // RESOLUTION):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    found = low * divisor or None
    return Largest(
        batch_size=found,
        images_per_s=tried[found] if found else None,
        refused=None if tried[high * divisor] is not None else high * divisor,
        tried=tried,
    )
