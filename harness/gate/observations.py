"""What one process says of a case's time: mean log ratios of its rounds to the frozen references. Pure.

The slowest rank counts, of the case and of the references: a collective step ends with its last rank, so a core that
is slow for a while slows it alone, and the slowest rank's reference shows the same. Times are of one step, so that
processes with more or fewer steps in a round can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, variance
from typing import Literal

from harness.records.samples import Micros, RankSamples, Samples

View = Literal["same work", "machine", "wall", "control", "speedup"]
"""One way to look at the time; `speedup` is of two cases, so no process holds it."""

REFERENCES: dict[View, tuple[str, ...]] = {
    "same work": ("plain",),
    "machine": ("machine",),
    "wall": (),
    "control": ("plain", "machine"),
}
"""The references whose code a view depends on."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One process in one view."""

    mean: float
    """Of the rounds, a natural logarithm; more is slower."""
    rounds: int
    variance: float | None
    """Of single rounds; None with one round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process as it is judged."""

    views: dict[View, Observation]
    """Without those that a missing figure, or one of zero, leaves out."""
    confirms: bool = False
    """Whether it was launched to confirm a suspicion, or to measure an unresolved case again."""
    references: dict[str, str] = field(default_factory=dict)
    """Digest of the code of each reference."""
    settled: bool = True
    disturbed: tuple[str, ...] = ()
    """What disturbed it, a sentence each."""
    ranks: int = 1
    agent: int = 0
    """Which of the run's agents started it."""


def observe(samples: Samples, disturbed: Callable[[Samples], tuple[str, ...]] = lambda samples: ()) -> Process:
    """Return a process as it is judged.

    Args:
        samples: what it measured.
        disturbed: tells what disturbed a process, a sentence each.
    """
    of: dict[View, Callable[[Samples], Observation | None]] = {
        "same work": same_work,
        "machine": machine,
        "wall": wall,
        "control": control,
    }
    return Process(
        views={view: seen for view, look in of.items() if (seen := look(samples)) is not None},
        confirms=samples.stage == "confirm",
        references=samples.references,
        settled=samples.settled_after is not None,
        disturbed=disturbed(samples),
        ranks=len(samples.ranks),
        agent=samples.agent,
    )


def same_work(samples: Samples) -> Observation | None:
    """Return log(case / plain loop)."""
    return _difference(_steps(samples, _case), _steps(samples, _plain))


def plain_s(processes: Sequence[Samples]) -> float | None:
    """Return the geometric mean of the plain loop's step over all rounds, seconds; None where it is not known."""
    logs = [log for one in processes for log in _steps(one, _plain) or ()]
    return math.exp(fmean(logs)) / 1e6 if logs else None


def machine(samples: Samples) -> Observation | None:
    """Return log(step of the case / kernels), the kernels being the geometric mean of convolution and product, us."""
    return _difference(_steps(samples, _case), _kernels(samples))


def wall(samples: Samples) -> Observation | None:
    """Return log(step of the case), of microseconds."""
    case = _steps(samples, _case)
    return _difference(case, [0.0] * len(case) if case else None)


def control(samples: Samples) -> Observation | None:
    """Return log(step of the plain loop / kernels): what the candidate has no part in."""
    return _difference(_steps(samples, _plain), _kernels(samples))


def _case(rank: RankSamples) -> Micros:
    return rank.case_us


def _plain(rank: RankSamples) -> Micros:
    return rank.plain_us


def _steps(samples: Samples, kind: Callable[[RankSamples], Micros]) -> list[float] | None:
    rounds = _logs(samples, kind)
    return rounds and [log - math.log(samples.steps) for log in rounds]


def _kernels(samples: Samples) -> list[float] | None:
    convolution = _logs(samples, lambda rank: rank.convolution_us)
    product = _logs(samples, lambda rank: rank.product_us)
    if convolution is None or product is None or len(convolution) != len(product):
        return None
    return [(a + b) / 2 for a, b in zip(convolution, product, strict=True)]


def _logs(samples: Samples, kind: Callable[[RankSamples], Micros]) -> list[float] | None:
    """Return the log of each round's slowest rank; None where a figure is missing or is no time."""
    by_rank = [kind(rank) for rank in samples.ranks]
    if len({len(times) for times in by_rank}) != 1 or not by_rank[0] or min(map(min, by_rank)) <= 0:
        return None
    return [math.log(max(times)) for times in zip(*by_rank, strict=True)]


def _difference(above: Sequence[float] | None, below: Sequence[float] | None) -> Observation | None:
    if above is None or below is None or len(above) != len(below):
        return None
    rounds = [a - b for a, b in zip(above, below, strict=True)]
    return Observation(mean=fmean(rounds), rounds=len(rounds), variance=variance(rounds) if len(rounds) > 1 else None)
