"""New processes of a case against its stored ones, view by view, with the variance of the difference. Pure.

Where the accepted code was measured beside the candidate, their confirmation is the contrast of the two: neither the
stored runs nor the state of the machine have a part in it.

Every change is a *loss*: a difference of natural logarithms that is positive when the case became worse, which is
slower for all views but the speedup, where it is lower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.gate import chance, noise
from harness.gate.noise import Noise
from harness.gate.observations import REFERENCES, Observation, Process, View
from harness.gate.policy import CREEP_RUNS, SCREEN_Z, THETA


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What is known of a case's time."""

    new: tuple[Process, ...]
    """Of this run, both those of the screen and those of the confirmation."""
    level: tuple[tuple[Process, ...], ...]
    """The stored processes it is held to, by run; none for a new case."""
    group: str
    """Cases of one group are expected to be alike in noise: say the strategy and the number of ranks."""
    base: str | None = None
    """The case of the same run that its speedup is taken over; None for no speedup."""
    budget: float = 0.0
    """The change that the case itself allows, as a share; the view's own where that is larger."""
    beside: tuple[Process, ...] = ()
    """Of the accepted code, in this run, taken in turns with those of the confirmation."""

    @property
    def ranks(self) -> int:
        """How many ranks it has."""
        return max((process.ranks for process in self.new), default=1)


@dataclass(frozen=True, slots=True)
class Contrast:
    """New processes against the level, in one view."""

    loss: float
    variance: float
    shared: float
    """The part of the variance that other processes of the same run have in common with these."""
    degrees: float
    new: int
    stored: int
    runs: int
    paired: bool = False
    """Whether the stored processes are of this run: the accepted code beside the candidate."""

    @property
    def error(self) -> float:
        """Standard error of the loss."""
        return math.sqrt(self.variance)

    def z(self, sign: int = 1) -> float:
        """Return the normal quantile of the loss, or of the gain, over its error; the variance being estimated."""
        return chance.as_normal(sign * self.loss / self.error, self.degrees)

    def interval(self, sign: int = 1, *, outside: float = 0.05) -> tuple[float, float]:
        """Return the relative change's interval, which leaves the truth out with so much probability.

        Args:
            sign: -1 for a view of which more is better, whose change is the loss turned round.
            outside: on both sides together.
        """
        half = chance.student(1 - outside / 2, self.degrees) * self.error
        return math.expm1(sign * self.loss - half), math.expm1(sign * self.loss + half)

    def with_new(self, count: int) -> Contrast:
        """Return what it would be with another number of new processes, as long as these, of both sides if paired."""
        return replace(self, variance=self.shared + (self.variance - self.shared) * self.new / count, new=count)


@dataclass(frozen=True, slots=True)
class Contrasts:
    """Of one case: the views compared by the processes of the screen, by those of the confirmation, and by all."""

    screen: dict[View, Contrast] = field(default_factory=dict)
    fresh: dict[View, Contrast] = field(default_factory=dict)
    whole: dict[View, Contrast] = field(default_factory=dict)
    crept: dict[View, Contrast] = field(default_factory=dict)
    """What the case drifted by over all runs of its level and this one."""


def theta(view: View, timed: Timed) -> float:
    """Return the smallest loss that counts."""
    return math.log1p(max(THETA[view], timed.budget))


def cut(view: View, contrast: Contrast, least: float) -> float:
    """Return the normal deviate from which on the screen suspects a view: no chance, and half of what counts."""
    return max(SCREEN_Z[view], chance.as_normal(least / 2 / contrast.error, contrast.degrees))


def correlation(before: Contrast, after: Contrast) -> float:
    """Return that of the screen's loss and the confirmation's, which have the level and the run in common.

    A paired confirmation has neither.
    """
    if after.paired:
        return 0.0
    return min(1.0, after.shared / math.sqrt(before.variance * after.variance))


def gather(cases: Mapping[str, Timed]) -> dict[str, Contrasts]:
    """Return what each case has to show, view by view; the noise is estimated over all cases together."""
    found = {case: Contrasts() for case in cases}
    groups = {case: timed.group for case, timed in cases.items()}
    for view in REFERENCES:
        stored = {case: _stored(view, timed) for case, timed in cases.items()}
        new = {case: (_seen(view, timed.new), _beside(view, timed)) for case, timed in cases.items()}
        for case, known in noise.estimate(view, stored, new, groups).items():
            timed, own = cases[case], found[case]
            if not stored[case]:
                continue
            level = _level(stored[case], known)
            for contrasts, processes in (
                (own.screen, [process for process in timed.new if not process.confirms]),
                (own.fresh, [process for process in timed.new if process.confirms]),
                (own.whole, timed.new),
            ):
                if seen := _seen(view, processes):
                    contrasts[view] = _contrast(seen, level, known)
            if view in own.fresh and new[case][1]:
                own.fresh[view] = _paired(view, timed, known)
            if len(stored[case]) >= CREEP_RUNS and new[case][0]:
                own.crept[view] = _crept([*reversed(stored[case]), new[case][0]], known)
    for case, timed in cases.items():
        if timed.base is None or timed.base not in cases or timed.base == case:
            continue
        base, own = found[timed.base], found[case]
        for ours, theirs in ((own.screen, base.screen), (own.fresh, base.fresh), (own.whole, base.whole)):
            if "machine" in ours and "machine" in theirs:
                ours["speedup"] = _speedup(ours["machine"], theirs["machine"])
    return found


def _seen(view: View, processes: Iterable[Process]) -> list[Observation]:
    return [process.views[view] for process in processes if view in process.views]


def _stored(view: View, timed: Timed) -> list[list[Observation]]:
    """Return the stored processes of a view by run, those whose references are other code left out."""
    kept = (_seen(view, _comparable(view, timed, run)) for run in timed.level)
    return [run for run in kept if run]


def _beside(view: View, timed: Timed) -> list[Observation]:
    return _seen(view, _comparable(view, timed, timed.beside))


def _comparable(view: View, timed: Timed, processes: Iterable[Process]) -> list[Process]:
    """Return those whose references of a view are the code that they are in this run."""
    ours = timed.new[0].references if timed.new else {}
    return [
        process
        for process in processes
        if all(process.references.get(name) == ours.get(name) for name in REFERENCES[view])
    ]


@dataclass(frozen=True, slots=True)
class _Level:
    mean: float
    variance: float
    of_runs: float
    """The part of the variance that the runs have, not their processes."""
    processes: int
    runs: int


def _level(stored: Sequence[Sequence[Observation]], known: Noise) -> _Level:
    """Return the mean of stored runs, each weighted by its variance."""
    runs = [known.mean(run) for run in stored]
    weights = [1 / (known.run + within) for _, within in runs]
    whole = sum(weights)
    return _Level(
        mean=sum(w * mean for w, (mean, _) in zip(weights, runs, strict=True)) / whole,
        variance=1 / whole,
        of_runs=known.run * sum(w * w for w in weights) / whole**2,
        processes=sum(map(len, stored)),
        runs=len(stored),
    )


def _contrast(new: Sequence[Observation], level: _Level, known: Noise) -> Contrast:
    mean, variance = known.mean(new)
    shared = known.run + level.variance
    total = variance + shared
    of_runs = known.run + level.of_runs
    degrees = degrees_of((total - of_runs, known.degrees), (of_runs, known.run_degrees))
    return Contrast(mean - level.mean, total, shared, degrees, len(new), level.processes, level.runs)


def _paired(view: View, timed: Timed, known: Noise) -> Contrast:
    """Return the fresh processes against those of the accepted code beside them.

    What agents have of their own is at most what runs differ by, which holds the machine's drift besides.
    """
    fresh = [process for process in timed.new if process.confirms]
    beside = _comparable(view, timed, timed.beside)
    (mean, variance), (before, of_before) = known.mean(_seen(view, fresh)), known.mean(_seen(view, beside))
    shared = known.run * sum(1 / len({process.agent for process in side}) for side in (fresh, beside))
    total = variance + of_before + shared
    degrees = degrees_of((variance + of_before, known.degrees), (shared, known.run_degrees))
    return Contrast(mean - before, total, shared, degrees, len(fresh), len(beside), 1, paired=True)


def _crept(runs: Sequence[Sequence[Observation]], known: Noise) -> Contrast:
    """Return the drift over runs, oldest first, the last one this run's: weighted least squares on their order."""
    means = [known.mean(run) for run in runs]
    weights = [1 / (known.run + within) for _, within in means]
    whole = sum(weights)
    centre = sum(w * at for at, w in enumerate(weights)) / whole
    spread = sum(w * (at - centre) ** 2 for at, w in enumerate(weights))
    slope = sum(w * (at - centre) * mean for at, (w, (mean, _)) in enumerate(zip(weights, means, strict=True))) / spread
    variance = 1 / spread
    of_runs = known.run * sum((w * (at - centre)) ** 2 for at, w in enumerate(weights)) / spread**2
    degrees = degrees_of((variance - of_runs, known.degrees), (of_runs, known.run_degrees))
    steps = len(runs) - 1
    return Contrast(
        steps * slope, steps**2 * variance, 0.0, degrees, len(runs[-1]), sum(map(len, runs[:-1])), len(runs) - 1
    )


def _speedup(own: Contrast, base: Contrast) -> Contrast:
    """Return the loss of speedup: what the case became slower by, less what its base did; noise is both cases'."""
    variance = own.variance + base.variance
    degrees = degrees_of((own.variance, own.degrees), (base.variance, base.degrees))
    return Contrast(
        own.loss - base.loss,
        variance,
        own.shared + base.shared,
        degrees,
        min(own.new, base.new),
        min(own.stored, base.stored),
        min(own.runs, base.runs),
        own.paired and base.paired,
    )


def degrees_of(*parts: tuple[float, float]) -> float:
    """Return the degrees of freedom of a sum of estimated variances (Satterthwaite, Biometrics Bull. 2, 1946)."""
    return sum(variance for variance, _ in parts) ** 2 / sum(variance**2 / degrees for variance, degrees in parts)
