"""What the measured ceilings amount to: best rates, and a collective's seconds at any size. Pure.

A collective is taken to cost a latency and its bytes over a bandwidth (Hockney, Parallel Computing 20 (1994) 389), both
fitted to the medians of its sweep. Sizes span four decades and so do times: a fit must weigh relative errors, or the
largest size alone would decide and the latency be lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from harness.anatomy.communication import bus_factor
from harness.case import Precision
from harness.records.ceilings import Ceilings, Loaded, Point, Sweep

_MAY_TAKE = {"fp32": ("fp32", "tf32"), "bf16": ("bf16",), "fp16": ("fp16",)}
"""Types of matrix products that a case of a precision may be computed by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Seconds of a collective as latency + size / bandwidth."""

    latency_s: float
    bytes_per_s: float
    """Of nccl-tests' size S: the algbw that large sizes approach."""
    worst_error: float
    """The largest distance of a measured median from the line, as a share of the median."""

    def seconds(self, size_bytes: float) -> float:
        """Return the seconds that the line tells for a size."""
        return self.latency_s + size_bytes / self.bytes_per_s


def peak_flops_per_s(ceilings: Ceilings, precision: Precision = "fp32") -> float | None:
    """Return the most floating-point operations per second of one rank; None of a type that was not measured.

    Of the sizes the best counts, by its median repetition. FP32 counts TF32 where the machine's convolutions may use
    it, for nothing would keep a share of plain FP32 below one.
    """
    rates = [one.flops / median(one.seconds) for one in ceilings.products if one.type in _MAY_TAKE[precision]]
    return max(rates, default=None)


def mfu(flops: float | None, step_s: float, peak: float | None) -> float | None:
    """Return the share of the peak that a step used; None where either is not known, never by a guessed peak.

    Args:
        flops: of one rank's step, recomputation not counted.
        step_s: seconds of the step.
        peak: as `peak_flops_per_s` returns it.
    """
    if flops is None or peak is None or not (step_s > 0 and peak > 0):
        return None
    return flops / step_s / peak


def copy_bytes_per_s(ceilings: Ceilings) -> float:
    """Return the bytes that one rank reads and writes per second in a memory copy."""
    return ceilings.copy_bytes / median(ceilings.copy_s)


def images_per_s(loaded: Sequence[Loaded]) -> float:
    """Return what the loaders of all ranks feed training with: a step waits for the slowest."""
    return len(loaded) * min(one.images / one.seconds for one in loaded)


def algbw_bytes_per_s(point: Point) -> float:
    """Return size S over the median seconds (nccl-tests, doc/PERFORMANCE.md)."""
    return point.size_bytes / median(point.seconds)


def busbw_bytes_per_s(kind: str, point: Point, ranks: int) -> float:
    """Return `algbw` times what a link must carry of each byte (nccl-tests, doc/PERFORMANCE.md).

    2(n-1)/n for all-reduce, (n-1)/n for all-gather and reduce-scatter.
    """
    factor = bus_factor(kind, ranks)
    if factor is None:
        raise ValueError(f"nccl-tests defines no busbw of {kind!r}")
    return algbw_bytes_per_s(point) * factor


def best_busbw_bytes_per_s(ceilings: Ceilings) -> dict[str, float]:
    """Return the best busbw of each kind over its sizes: what a trace's figures are shares of."""
    return {
        sweep.kind: max(busbw_bytes_per_s(sweep.kind, point, ceilings.ranks) for point in sweep.points)
        for sweep in ceilings.sweeps
    }


def fitted(sweep: Sweep) -> Line:
    """Return the line whose relative errors at the sweep's medians have the least sum.

    Least absolute errors, so that one disturbed size does not tilt it. The best line of two unknowns passes through two
    of the points (Bloomfield and Steiger, Least Absolute Deviations, 1983, theorem 1) or, where no such line has a
    latency and a cost per byte that are none below zero, through one with no latency; there are few enough to try all.

    Raises:
        ValueError: fewer than two sizes were measured.
    """
    measured = [(float(point.size_bytes), median(point.seconds)) for point in sweep.points]
    if len({size for size, _ in measured}) < 2:
        raise ValueError(f"{sweep.kind} was measured at {len(measured)} size(s); a line needs two")
    candidates = [(0.0, seconds / size) for size, seconds in measured]
    for (size, seconds), (other, other_s) in combinations(measured, 2):
        if size != other:
            per_byte = (other_s - seconds) / (other - size)
            candidates.append((seconds - per_byte * size, per_byte))

    def errors(line: tuple[float, float]) -> list[float]:
        return [abs(line[0] + line[1] * size - seconds) / seconds for size, seconds in measured]

    latency_s, per_byte = min(
        (line for line in candidates if line[0] >= 0 and line[1] > 0), key=lambda c: sum(errors(c))
    )
    return Line(latency_s=latency_s, bytes_per_s=1 / per_byte, worst_error=max(errors((latency_s, per_byte))))


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Seconds of collectives at any size, from a machine's sweeps."""

    ceilings: Ceilings

    def seconds(self, kind: str, size_bytes: float) -> float | None:
        """Return the seconds of one collective; None of a kind that was not swept.

        Between two measured sizes on the straight line through their medians in logarithms; below the smallest what
        that took, above the largest at the largest's bandwidth.

        Args:
            kind: as the sweeps name it.
            size_bytes: nccl-tests' size S.
        """
        sweep = next((one for one in self.ceilings.sweeps if one.kind == kind), None)
        if sweep is None:
            return None
        measured = sorted((float(point.size_bytes), median(point.seconds)) for point in sweep.points)
        size, seconds = measured[0]
        if size_bytes <= size:
            return seconds
        for larger, longer in measured[1:]:
            if size_bytes <= larger:
                share = math.log(size_bytes / size) / math.log(larger / size)
                return seconds * math.pow(longer / seconds, share)
            size, seconds = larger, longer
        return seconds * size_bytes / size
