"""Whether one case of a run is slower than another, by the processes of the time layer. Pure.

Strategies of one model are held to the same plain loop, or to the same kernels, so that their ratios to it can be held
to each other. What a process varies by is estimated over all cases, as for the gate; so one process of each tells
something, if little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.gate import noise
from harness.gate.contrasts import Contrast, degrees_of
from harness.gate.noise import Noise
from harness.gate.observations import REFERENCES, Observation, Process

Ratio = Literal["same work", "machine"]

LEVEL = 0.95
"""Of the intervals, over all comparisons with one case together (Bonferroni)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """How long a step takes beside a reference."""

    seen: tuple[Observation, ...]
    """Of each process."""
    noise: Noise
    code: tuple[str, ...] = ()
    """Digests of the reference's code, and what else it depends on: only what is alike can be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slower:
    """By what share one case takes longer than another: .03 is 3 % longer."""

    estimate: float
    low: float
    high: float
    processes: tuple[int, int]
    """Of this case and of the other."""


Timing = Mapping[Ratio, Spent]
"""What the processes of a case say of its speed, by what it is held to; empty where it has none."""


def timings(
    cases: Mapping[str, Sequence[Process]], *, groups: Mapping[str, str], loops: Mapping[str, str]
) -> dict[str, Timing]:
    """Return what the processes of each case of a run say of its speed.

    Args:
        cases: their processes.
        groups: the cases that are expected to be alike in noise, by the name of their group.
        loops: what the plain loop of each case depends on beside its code.
    """
    views: dict[str, dict[Ratio, Spent]] = {case: {} for case in cases}
    ratios: tuple[Ratio, ...] = ("same work", "machine")
    for view in ratios:
        seen = {case: [one.views[view] for one in of if view in one.views] for case, of in cases.items()}
        known = noise.estimate(view, dict.fromkeys(seen, ()), {case: [run] for case, run in seen.items()}, groups)
        for case, run in seen.items():
            if run:
                digests = (cases[case][0].references.get(name, "") for name in REFERENCES[view])
                code = (*digests, loops[case] if view == "same work" else "")
                views[case][view] = Spent(seen=tuple(run), noise=known[case], code=code)
    return dict(views)


def slower(one: Timing, than: Timing, *, comparisons: int = 1) -> Slower | None:
    """Return by how much one case is slower than another, by the plain loop if theirs is one, else by the kernels.

    Args:
        one: of the case.
        than: of the other.
        comparisons: how many cases are held to the other, whose intervals shall hold together.
    """
    for view, ours in one.items():
        theirs = than.get(view)
        if theirs is None or ours.code != theirs.code:
            continue
        (mean, variance), (other, of_other) = ours.noise.mean(ours.seen), theirs.noise.mean(theirs.seen)
        runs = ours.noise.run + theirs.noise.run
        parts = ((variance, ours.noise.degrees), (of_other, theirs.noise.degrees), (runs, ours.noise.run_degrees))
        counts = len(ours.seen), len(theirs.seen)
        contrast = Contrast(mean - other, variance + of_other + runs, runs, degrees_of(*parts), *counts, 1)
        low, high = contrast.interval(outside=(1 - LEVEL) / comparisons)
        return Slower(estimate=math.expm1(contrast.loss), low=low, high=high, processes=counts)
    return None
