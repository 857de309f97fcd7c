"""The step time, speedup and memory at other numbers of GPUs, from what was measured at one number of them. Pure.

    step(N) = compute + exposed(N) + late(N)
    compute    = median of the measured steps - their exposed communication
    exposed(N) = max(communication(N) - hideable, last calls(N))
    late(N)    = sd x (E(N) - E(measured ranks)), where the spread of a rank's own time is known

A constant share of hidden communication would be wrong at both ends: what is hidden is hidden beneath compute, of which
a step has the same seconds at any N (the batch per GPU is kept), so past those seconds all of it shows; and however
fast a link is, nothing hides what is asked for when no compute is left: DDP's last bucket, which is ready as backward
ends (Li et al., arXiv 2006.15704, section 3.2.3), FSDP's first gathering and last reduction (Zhao et al., arXiv
2304.11277, section 3.3). So one call of each kind stays exposed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median
from typing import Literal

from harness.anatomy.communication import Figures, bus_factor, matched, waits_and_transfers
from harness.anatomy.links import Fabric, ForecastError, seconds
from harness.plugins import Traffic
from harness.records.spans import inside, length, without
from harness.records.trace import RankTrace

COUNTS = tuple(2**power for power in range(11))
"""1, 2, 4, ... 1024 GPUs."""
_TAIL = 0.025
"""Outside each end of an interval of 95 %."""
BUCKET_BYTES = 25 * 2**20
"""DDP's, taken where nobody counted the calls."""
_UNEXPLAINED = 0.1
"""Of the communication: exposed beyond the last calls by more than this, it was not all hidden that could be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The calls of one kind of collective in a step."""

    kind: str
    calls: float
    size_bytes: float
    """nccl-tests' size S over all calls: of all-gather and reduce-scatter the whole over ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How compute and communication of a step lay beside each other: seconds, means over ranks and steps."""

    hidden_s: float
    """Of transfers, beneath compute of the same rank."""
    exposed_s: float
    """Of transfers, the rest."""
    beside_s: float
    """Of compute, from the first call's begin to the last one's end: transfers had no more to hide beneath."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of a case from one number of ranks."""

    name: str
    ranks: int
    step_s: tuple[float, ...]
    """Of each measured step, the slowest rank's, nothing attached."""
    collectives: Callable[[int], Sequence[Moved]]
    """Of a step at a number of ranks, two or more."""
    overlap: Overlap | None = None
    """None with one rank, which moves nothing."""
    rank_sd_s: float | None = None
    """Standard deviation, over steps, of a rank's own seconds; None leaves out that the slowest of more is slower."""
    memory_bytes: Callable[[int], float] | None = None
    """Peak of the fullest rank at a number of ranks; None is not known."""

    def __post_init__(self) -> None:
        times = (*self.step_s, self.rank_sd_s or 0.0)
        if not self.step_s or not all(math.isfinite(time) and time >= 0 for time in times):
            raise ForecastError(f"{self.name}: give at least one step, in seconds of 0 or more, and so its spread")
        if self.ranks < 1:
            raise ForecastError(f"{self.name}: measured with {self.ranks} ranks; there must be at least 1")
        if self.ranks > 1 and self.overlap is None:
            raise ForecastError(
                f"{self.name}: of its step with {self.ranks} ranks nobody knows how much is exposed communication; "
                "trace it, or measure it with 1 rank"
            )
        if self.compute_s < 0:
            raise ForecastError(
                f"{self.name}: {self.exposed_s:.4g} s of exposed communication in a step of {median(self.step_s):.4g} "
                "s: not of the same step; trace it again"
            )

    @property
    def exposed_s(self) -> float:
        """Seconds of a step in which it only communicates."""
        return self.overlap.exposed_s if self.overlap and self.ranks > 1 else 0.0

    @property
    def compute_s(self) -> float:
        """All of the step but exposed communication: compute, data, host."""
        return median(self.step_s) - self.exposed_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Hideable:
    """Seconds of communication that a step can hide: the least, the likely and the most."""

    known: Literal["limit", "all hidden", "unknown"]
    """`limit`: more was moved than was hidden. `all hidden`: all that could be was, so it may be more."""
    least_s: float
    likely_s: float
    most_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A case at a number of GPUs."""

    gpus: int
    step_s: float
    low_s: float | None
    """None where there are too few steps for an interval."""
    high_s: float | None
    communication_s: float
    """All of it, hidden or not."""
    exposed_s: float
    late_s: float
    speedup: float | None
    """Throughput over that of one GPU, batch per GPU kept; None where that one takes no time."""
    memory_bytes: float | None

    @property
    def efficiency(self) -> float | None:
        """Speedup over GPUs."""
        return None if self.speedup is None else self.speedup / self.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A case at several numbers of GPUs."""

    measured: Measured
    fabric: Fabric
    hideable: Hideable
    rows: tuple[Row, ...]


def forecast(measured: Measured, fabric: Fabric, counts: Iterable[int] = COUNTS) -> Forecast:
    """Return what to expect at numbers of GPUs.

    The interval has two sources: that of the median of the measured steps (`median_interval`), and, where it is not
    known how much can be hidden, the most and the least. It holds what was seen to vary, not errors of the model.

    Raises:
        ForecastError: the fabric cannot hold a count, or a collective has no model.
    """
    can = hideable(measured)
    alone_s = max(0.0, _late(measured, 1) + measured.compute_s)
    interval = median_interval(measured.step_s)
    rows = []
    for gpus in counts:
        collectives = measured.collectives(gpus) if gpus > 1 else ()
        all_s, last_s = _communication(collectives, gpus, fabric)
        likely_s, least_s, most_s = (max(all_s - s, last_s) for s in (can.likely_s, can.most_s, can.least_s))
        late_s = _late(measured, gpus)
        rest_s = late_s - measured.exposed_s
        step_s = max(0.0, median(measured.step_s) + rest_s + likely_s)
        rows.append(
            Row(
                gpus=gpus,
                step_s=step_s,
                low_s=max(0.0, interval[0] + rest_s + least_s) if interval else None,
                high_s=interval[1] + rest_s + most_s if interval else None,
                communication_s=all_s,
                exposed_s=likely_s,
                late_s=late_s,
                speedup=gpus * alone_s / step_s if step_s > 0 else None,
                memory_bytes=measured.memory_bytes(gpus) if measured.memory_bytes else None,
            )
        )
    return Forecast(measured=measured, fabric=fabric, hideable=can, rows=tuple(rows))


def _communication(collectives: Iterable[Moved], ranks: int, fabric: Fabric) -> tuple[float, float]:
    """Return the seconds of all calls, and of one call of each kind."""
    all_s = last_s = 0.0
    for moved in collectives:
        of_kind = seconds(moved.kind, calls=moved.calls, size_bytes=moved.size_bytes, ranks=ranks, fabric=fabric)
        all_s += of_kind
        last_s += of_kind / max(1.0, moved.calls)
    return all_s, last_s


def hideable(measured: Measured) -> Hideable:
    """Return how much communication a step can hide, from what one was seen to.

    Where more than the last calls was exposed, what was hidden is all that can be. Where no more was, all the compute
    beside the calls may hide as many. From one rank nothing is known: none is taken to be hidden, at most all.
    """
    seen = measured.overlap
    if seen is None or measured.ranks == 1:
        return Hideable(known="unknown", least_s=0.0, likely_s=0.0, most_s=measured.compute_s)
    weights = [
        ((bus_factor(moved.kind, measured.ranks) or 0.0) * moved.size_bytes, max(1.0, moved.calls))
        for moved in measured.collectives(measured.ranks)
    ]
    total = sum(weight for weight, _ in weights)
    last = sum(weight / calls for weight, calls in weights) / total if total else 0.0
    if seen.exposed_s > (last + _UNEXPLAINED) * (seen.hidden_s + seen.exposed_s):
        return Hideable(known="limit", least_s=seen.hidden_s, likely_s=seen.hidden_s, most_s=seen.hidden_s)
    most_s = max(seen.hidden_s, seen.beside_s)
    return Hideable(known="all hidden", least_s=seen.hidden_s, likely_s=most_s, most_s=most_s)


def overlap(traces: Sequence[RankTrace]) -> Overlap | None:
    """Return how compute and communication lay beside each other in traced steps; None of a single rank."""
    if len(traces) < 2:
        return None
    seen = []
    for of_ranks in zip(*(trace.steps for trace in traces), strict=True):
        for step, own in zip(of_ranks, matched(of_ranks), strict=True):
            transfers = waits_and_transfers(own)[1]
            exposed_s = length(without(transfers, step.compute))
            window = (min(o.call.begin_s for o in own), max(o.call.end_s for o in own)) if own else (0.0, 0.0)
            seen.append((length(transfers) - exposed_s, exposed_s, length(inside(step.compute, window))))
    hidden_s, exposed_s, beside_s = map(fmean, zip(*seen, strict=True))
    return Overlap(hidden_s=hidden_s, exposed_s=exposed_s, beside_s=beside_s)


def predicted(
    traffic: Sequence[Traffic], ranks: int, *, backend: str, calls: Mapping[str, float], element_bytes: int = 4
) -> list[Moved]:
    """Return what a strategy's closed form says that a step moves.

    Args:
        traffic: `Strategy.traffic` at these ranks.
        ranks: that take part.
        backend: `gloo` does a reduce-scatter as an all-reduce of the whole; any other as what it is.
        calls: by kind, as the backend calls it: how many were counted where the library decides. None counted: in
            DDP's buckets of 25 MiB.
        element_bytes: of what is moved.
    """
    made = []
    for one in traffic:
        kind = "all_reduce" if (backend, one.kind) == ("gloo", "reduce_scatter") else one.kind
        size = one.elements * element_bytes * (ranks if kind == "all_gather" else 1)
        counted = one.calls or calls.get(kind) or math.ceil(size / BUCKET_BYTES)
        made.append(Moved(kind=kind, calls=counted, size_bytes=size))
    return made


def moved_in(figures: Iterable[Figures]) -> list[Moved]:
    """Return what traced steps moved, which is what they move at any number of ranks but for padding: the size S of a
    collective is the model's, not a rank's part of it.

    Raises:
        ForecastError: a size is not known.
    """
    made = []
    for one in figures:
        if one.size_bytes is None:
            raise ForecastError(f"{one.kind}: moves elements of unknown size, so it cannot be forecast")
        made.append(Moved(kind=one.kind, calls=one.calls, size_bytes=one.size_bytes))
    return made


def memory(peak_bytes: float, ranks: int, state_bytes: Callable[[int], float]) -> Callable[[int], float]:
    """Return the peak at any number of ranks: what is not model state stays, for the batch per GPU is kept.

    Args:
        peak_bytes: measured, of the fullest rank.
        ranks: that it was measured with.
        state_bytes: model state that the strategy's closed form says a rank keeps, at a number of ranks.
    """
    rest = peak_bytes - state_bytes(ranks)
    return lambda gpus: rest + state_bytes(gpus)


def median_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of order statistics that holds the median with at least 95 %, whatever the distribution.

    P(x(k) <= median <= x(n + 1 - k)) = 1 - 2 P(Binomial(n, 1/2) < k) (David and Nagaraja, Order Statistics, 2003,
    section 7.1), for independent steps. None where even the smallest and largest do not reach it: below six.
    """
    count = len(samples)
    below, k = 0.0, 0
    while (below := below + math.comb(count, k) / 2**count) <= _TAIL:
        k += 1
    return (sorted(samples)[k - 1], sorted(samples)[count - k]) if k else None


@functools.cache
def expected_maximum(count: int) -> float:
    """Return the mean of the largest of so many independent standard normal numbers.

    It is the integral of x d(Phi(x)^n) (David and Nagaraja, section 3.1), 0.564 for 2 and 3.25 for 1024: by
    parts, of 1 - Phi(x)^n - Phi(-x)^n over x > 0, by the trapezoid rule.
    """
    normal, steps, end = NormalDist(), 2000, 10.0
    width = end / steps
    values = [1 - normal.cdf(x) ** count - normal.cdf(-x) ** count for x in (i * width for i in range(steps + 1))]
    return width * (sum(values) - (values[0] + values[-1]) / 2)


def _late(measured: Measured, gpus: int) -> float:
    """Return by how much the slowest of so many ranks is later than the slowest of those measured."""
    if not measured.rank_sd_s:
        return 0.0
    return measured.rank_sd_s * (expected_maximum(gpus) - expected_maximum(measured.ranks))


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """A prediction beside what was measured."""

    name: str
    predicted: float
    measured: float

    @property
    def relative(self) -> float:
        """Of what was measured: +0.1 is a tenth too much."""
        return self.predicted / self.measured - 1


def errors(predicted: Mapping[str, float], measured: Mapping[str, float]) -> list[Error]:
    """Return each prediction beside its measurement, in the order of the predictions.

    Raises:
        ForecastError: one lacks the other, or a measurement is not a number above 0.
    """
    if odd := sorted(predicted.keys() ^ measured.keys()):
        raise ForecastError(f"predictions and measurements do not match: {', '.join(odd)} in one of them alone")
    if wrong := [name for name, value in measured.items() if not (math.isfinite(value) and value > 0)]:
        raise ForecastError(f"{wrong[0]}: measured {measured[wrong[0]]}, against which no error can be told")
    return [Error(name=name, predicted=predicted[name], measured=measured[name]) for name in predicted]
