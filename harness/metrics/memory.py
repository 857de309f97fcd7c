"""Peak memory of the fullest device."""

from __future__ import annotations

from harness.plugins import Limit, Metric
from harness.results import Result


def peak_bytes(result: Result, reference: Result | None = None) -> int | None:
    """Return the largest peak over the ranks, bytes: allocated on CUDA, on CPU the resident set above its start."""
    peaks = [
        r.memory.peak_resident_bytes if r.memory.peak_allocated_bytes is None else r.memory.peak_allocated_bytes
        for r in result.ranks
    ]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if len(known) == len(peaks) else None


PEAK_MEMORY = Metric(
    name="peak_memory",
    title="peak mem",
    unit="bytes",
    better="lower",
    across="max",
    value=peak_bytes,
    show=lambda value: f"{value / 2**30:.3f} GiB",
    order=50,
    layer="tight",
    limit=Limit(relative=0.005, absolute=2**20),
    # A resident set is what the C library has not yet given back: of 72 cases run twice, three differed by 11 to 13 %.
    limits_on={"cpu": Limit(relative=0.2, absolute=16 * 2**20, advisory=True)},
)
