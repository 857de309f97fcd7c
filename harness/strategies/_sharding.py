"""What strategies move and keep, whatever library does it.

Of model state in FP32, each parameter has 4 bytes of its own, 4 of gradient and 4 of each slot of optimizer state.
Replication keeps all of it on every rank; what is sharded over n ranks keeps 1/n of it (Rajbhandari et al., ZeRO, arXiv
1910.02054, section 3.1 and figure 1, where mixed precision makes it 2, 2 and K = 12 bytes). Libraries add padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness.plugins import Footprint, Share, Traffic, Unit

FP32 = 4
"""Bytes of an element."""


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


def spans(unit: Unit, aligned_to: int = 1) -> Iterator[tuple[int, int]]:
    """Yield where each parameter of a unit begins and ends that is laid end to end, as `flat_size` has it."""
    end = 0
    for shape in unit:
        begin = -(-end // aligned_to) * aligned_to
        end = begin + math.prod(shape)
        yield begin, end


def overlap(span: tuple[int, int], other: tuple[int, int]) -> int:
    """Return how many elements two spans have in common."""
    return max(0, min(span[1], other[1]) - max(span[0], other[0]))


def state_bytes(share: Share, elements: int, tensors: int) -> int:
    """Return the bytes of optimizer state for so many elements that it updates in so many tensors."""
    return FP32 * (share.slots * elements + (tensors if share.counters else 0))


def whole_memory(share: Share, *, rest: int = 0) -> Footprint:
    """Return what a rank keeps that keeps all, as in training without any library."""
    elements = sum(map(math.prod, share.shapes))
    return Footprint(
        parameters=FP32 * elements,
        gradients=FP32 * elements,
        optimizer=state_bytes(share, elements, len(share.shapes)),
        rest=rest,
    )
