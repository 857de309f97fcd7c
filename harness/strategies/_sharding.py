"""What fully sharded strategies move, whatever library shards: each unit is gathered twice and reduced once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.plugins import Traffic, Unit


def sharded_traffic(sizes: Sequence[int], ranks: int) -> Sequence[Traffic]:
    """Return what units of these padded sizes, the outermost last, move with parameters resharded after forward.

    Each unit is gathered for forward and, but for the outermost, again for backward; each gradient is reduced once
    (Zhao et al., PyTorch FSDP, arXiv 2304.11277, section 3.2). Together 3 P (n - 1) / n elements of P a rank, less the
    outermost unit's second gathering.
    """
    gathered = 2 * sum(sizes) - sizes[-1]
    return [
        Traffic(kind="all_gather", elements=gathered // ranks, calls=2 * len(sizes) - 1),
        Traffic(kind="reduce_scatter", elements=sum(sizes), calls=len(sizes)),
    ]


def flat_size(unit: Unit, ranks: int, aligned_to: int = 1) -> int:
    """Return the size of a unit that is laid end to end: each parameter begins at an alignment, all split evenly."""
    end = 0
    for shape in unit:
        end = -(-end // aligned_to) * aligned_to + math.prod(shape)
    return -(-end // ranks) * ranks
