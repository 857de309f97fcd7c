"""New processes of a case against its stored ones, view by view, with the variance of the difference. Pure.

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
from harness.gate.policy import SCREEN_Z, THETA


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

    @property
    def error(self) -> float:
        """Standard error of the loss."""
        return math.sqrt(self.variance)

    def z(self, sign: int = 1) -> float:
        """Return the normal quantile of the loss, or of the gain, over its error; the variance being estimated."""
        return chance.as_normal(sign * self.loss / self.error, self.degrees)

    def with_new(self, count: int) -> Contrast:
        """Return what it would be with another number of new processes, as long as these."""
        return replace(self, variance=self.shared + (self.variance - self.shared) * self.new / count, new=count)


@dataclass(frozen=True, slots=True)
class Contrasts:
    """Of one case: the views compared by the processes of the screen, by those of the confirmation, and by all."""

    screen: dict[View, Contrast] = field(default_factory=dict)
    fresh: dict[View, Contrast] = field(default_factory=dict)
    whole: dict[View, Contrast] = field(default_factory=dict)


def theta(view: View, timed: Timed) -> float:
    """Return the smallest loss that counts."""
    return math.log1p(max(THETA[view], timed.budget))


def cut(view: View, contrast: Contrast, least: float) -> float:
    """Return the normal deviate from which on the screen suspects a view: no chance, and half of what counts."""
    return max(SCREEN_Z[view], chance.as_normal(least / 2 / contrast.error, contrast.degrees))


def correlation(before: Contrast, after: Contrast) -> float:
    """Return that of the screen's loss and the confirmation's, which have the level and the run in common."""
    return min(1.0, after.shared / math.sqrt(before.variance * after.variance))


def gather(cases: Mapping[str, Timed]) -> dict[str, Contrasts]:
    """Return what each case has to show, view by view; the noise is estimated over all cases together."""
    found = {case: Contrasts() for case in cases}
    groups = {case: timed.group for case, timed in cases.items()}
    for view in REFERENCES:
        stored = {case: _stored(view, timed) for case, timed in cases.items()}
        new = {case: _seen(view, timed.new) for case, timed in cases.items()}
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
    ours = timed.new[0].references if timed.new else {}
    wanted = [(name, ours.get(name)) for name in REFERENCES[view]]

    def comparable(process: Process) -> bool:
        return all(process.references.get(name) == digest for name, digest in wanted)

    kept = (_seen(view, filter(comparable, run)) for run in timed.level)
    return [run for run in kept if run]


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
    # Satterthwaite, Biometrics Bull. 2, 1946: of a sum of two estimated variances.
    degrees = total**2 / ((total - of_runs) ** 2 / known.degrees + of_runs**2 / known.run_degrees)
    return Contrast(mean - level.mean, total, shared, degrees, len(new), level.processes, level.runs)


def _speedup(own: Contrast, base: Contrast) -> Contrast:
    """Return the loss of speedup: what the case became slower by, less what its base did; noise is both cases'."""
    variance = own.variance + base.variance
    degrees = variance**2 / (own.variance**2 / own.degrees + base.variance**2 / base.degrees)
    return Contrast(
        own.loss - base.loss,
        variance,
        own.shared + base.shared,
        degrees,
        min(own.new, base.new),
        min(own.stored, base.stored),
        min(own.runs, base.runs),
    )
