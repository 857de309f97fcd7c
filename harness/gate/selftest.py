"""Whether a machine's noise is what the gate takes it for: unchanged code held to itself. Pure.

The gate takes the ratios of processes that follow each other for independent. Where they are not, a slow hour looks
like a slow commit, and no interval means what it says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import correlation, fmean, stdev
from typing import Literal

from harness.gate.contrasts import Timed
from harness.gate.observations import Process
from harness.gate.policy import Policy
from harness.gate.timing import TimeVerdict, judge_time

WHITE_Z = 3.29
"""One machine in 1000 whose ratios are white is taken for one whose are not, by each of two tests."""
LEAST_PROCESSES = 10
"""Of a case: a lag-1 autocorrelation of fewer says next to nothing."""
LEAST_IN_ALL = 80
"""Processes over all cases, without which the machine is neither condemned nor cleared."""

Word = Literal["white", "not white", "cannot tell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """What processes of one unchanged case differ by, as logarithms of the ratio to the same work."""

    processes: int
    between: float
    """Standard deviation of the means of processes."""
    rounds: float | None
    """Of single rounds; None where no process has two."""
    lag1: float
    """Autocorrelation of the means, in the order they were taken."""
    trend: float
    """Correlation of the means with their order."""
    verdict: TimeVerdict
    """On every second process, held to the others: nothing changed, so it must not be regressed or improved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selftest:
    """What unchanged code says of a machine."""

    cases: dict[str, Scatter]
    lag1_z: float
    """Of the lag-1 autocorrelations over all cases: a normal deviate where ratios are white."""
    trend_z: float
    """The same of the trends."""

    @property
    def word(self) -> Word:
        """Whether processes are independent of each other, as far as these can say."""
        if sum(one.processes for one in self.cases.values()) < LEAST_IN_ALL:
            return "cannot tell"
        return "white" if self.lag1_z <= WHITE_Z and abs(self.trend_z) <= WHITE_Z else "not white"

    @property
    def alarms(self) -> tuple[str, ...]:
        """Cases that were said to have changed, though nothing did."""
        return tuple(name for name, one in self.cases.items() if one.verdict.word in ("regressed", "improved"))


def selftest(cases: Mapping[str, Sequence[Process]], groups: Mapping[str, str], policy: Policy) -> Selftest:
    """Return what unchanged processes say of the machine; cases with too few of them are left out.

    The means x of n processes of a case, in the order they were taken, have the lag-1 autocorrelation
    r = sum (x_i - m)(x_i+1 - m) / sum (x_i - m)^2, where they are independent of expectation -1 / n and variance
    (n - 2)^2 / (n^2 (n - 1)) (Moran, Biometrika 35, 1948), and a correlation with their order of variance 1 / (n - 1).
    Deviations are summed over cases.

    Args:
        cases: processes of each case in the order they were taken.
        groups: cases that are expected to be alike in noise, as `Timed.group`.
        policy: that the A/A comparison is judged by.
    """
    kept = {
        name: found
        for name, processes in cases.items()
        if len(found := [one for one in processes if "same work" in one.views]) >= LEAST_PROCESSES
    }
    halves = {
        name: Timed(
            new=tuple(replace(one, confirms=True) for one in processes[1::2]),
            level=(tuple(processes[::2]),),
            group=groups[name],
        )
        for name, processes in kept.items()
    }
    verdicts = judge_time(halves, policy) if halves else {}
    scatters = {name: _scatter(processes, verdicts[name]) for name, processes in kept.items()}
    counts = [one.processes for one in scatters.values()]
    lag1 = sum(one.lag1 + 1 / one.processes for one in scatters.values())
    trend = sum(one.trend for one in scatters.values())
    return Selftest(
        cases=scatters,
        lag1_z=lag1 / math.sqrt(sum((n - 2) ** 2 / (n**2 * (n - 1)) for n in counts)) if counts else 0.0,
        trend_z=trend / math.sqrt(sum(1 / (n - 1) for n in counts)) if counts else 0.0,
    )


def _scatter(processes: Sequence[Process], verdict: TimeVerdict) -> Scatter:
    seen = [one.views["same work"] for one in processes]
    means = [one.mean for one in seen]
    centre = fmean(means)
    squares = sum((x - centre) ** 2 for x in means)
    products = sum((a - centre) * (b - centre) for a, b in pairwise(means))
    variances = [one.variance for one in seen if one.variance is not None]
    return Scatter(
        processes=len(means),
        between=stdev(means),
        rounds=math.sqrt(fmean(variances)) if variances else None,
        lag1=products / squares if squares else 0.0,
        trend=correlation(means, range(len(means))) if squares else 0.0,
        verdict=verdict,
    )
