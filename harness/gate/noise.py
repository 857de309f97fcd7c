"""How much the mean of a process and of a run varies without any change, estimated from what is stored. Pure.

x = level + run + process + rounds: a process mean of n rounds varies by c (tau^2 + v / n) within a run, and all of a
run's processes together by another rho^2. v, of single rounds, each case has plenty of. tau^2 is common to a group of
cases, and takes up that rounds are not independent; c says by how much a case is wilder than its group, and is shrunk
towards it (empirical Bayes: Smyth, Stat. Appl. Genet. Mol. Biol. 3(1), 2004). rho^2 is common to all cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from harness.case import Case
from harness.gate.observations import Observation, View

Run = Sequence[Observation]


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of a view before anything is stored, and how many observations that is worth."""

    process: float
    """Standard deviation of a process beside its rounds', a logarithm."""
    run: float
    worth: float = 4.0


PRIORS: dict[View, Prior] = {
    "same work": Prior(process=0.01, run=0.005),
    "machine": Prior(process=0.03, run=0.01),
    "control": Prior(process=0.02, run=0.01),
    "wall": Prior(process=0.10, run=0.05),
}
"""From the recorded runs of an idle machine with two cores."""

_FEWEST_CASES = 5
"""From which on the cases themselves tell how much they differ in noise."""
_MOST_WORTH = 30.0
"""That a few cases look equally noisy is weak evidence that all are."""


def group_of(case: Case) -> str:
    """Return the name of the cases that are expected to be alike in noise."""
    return f"{case.strategy} {case.gpu_count}"


@dataclass(frozen=True, slots=True)
class Noise:
    """Variances of one case in one view; squares of logarithms."""

    scale: float
    """c."""
    process: float
    """tau^2."""
    rounds: float
    """v."""
    degrees: float
    """Of freedom, of the variance within runs."""
    run: float
    """rho^2."""
    run_degrees: float

    def of_process(self, rounds: int) -> float:
        """Return the variance of a process mean of so many rounds; never less than independent rounds have."""
        return max(self.scale * (self.process + self.rounds / rounds), self.rounds / rounds)

    def mean(self, run: Run) -> tuple[float, float]:
        """Return the mean of a run's processes, each weighted by its variance, and its variance within the run."""
        weights = [1 / self.of_process(one.rounds) for one in run]
        whole = sum(weights)
        return sum(w * one.mean for w, one in zip(weights, run, strict=True)) / whole, 1 / whole


def estimate(
    view: View, stored: Mapping[str, Sequence[Run]], new: Mapping[str, Sequence[Run]], groups: Mapping[str, str]
) -> dict[str, Noise]:
    """Return the noise of each case.

    Args:
        view: sets the prior.
        stored: the processes of each case by run.
        new: those of the run that is judged, of each code apart; that they may be at another level does not count.
        groups: the cases that are expected to be alike, by the name of their group.
    """
    prior = PRIORS[view]
    cases = {case: [*runs, *new[case]] for case, runs in stored.items()}
    rounds = {case: _rounds(runs) for case, runs in cases.items()}
    everyone = _process(cases, rounds, prior.process**2, prior.worth)
    members: dict[str, list[str]] = {}
    for case in cases:
        members.setdefault(groups[case], []).append(case)
    process = {
        group: _process({case: cases[case] for case in of}, rounds, everyone, 2 * prior.worth)
        for group, of in members.items()
    }
    spread = {case: _scale(runs, process[groups[case]], rounds[case]) for case, runs in cases.items()}
    overall = _shrinkage(list(spread.values()), 1.0, prior.worth)
    towards = {group: _shrinkage([spread[case] for case in of], *overall) for group, of in members.items()}
    within: dict[str, Noise] = {}
    for case in cases:
        own, degrees = spread[case]
        scale, worth = towards[groups[case]]
        within[case] = Noise(
            scale=(worth * scale + degrees * own) / (worth + degrees),
            process=process[groups[case]],
            rounds=rounds[case],
            degrees=worth + degrees,
            run=0.0,
            run_degrees=0.0,
        )
    run, run_degrees = _run(stored, within, prior)
    return {
        case: Noise(one.scale, one.process, one.rounds, one.degrees, run, run_degrees) for case, one in within.items()
    }


def _rounds(runs: Sequence[Run]) -> float:
    """Return the variance of single rounds, pooled over processes; 0 where no process has two."""
    seen = [(one.rounds - 1, one.variance) for run in runs for one in run if one.variance is not None]
    degrees = sum(n for n, _ in seen)
    return sum(n * v for n, v in seen) / degrees if degrees else 0.0


def _process(cases: Mapping[str, Sequence[Run]], rounds: Mapping[str, float], prior: float, worth: float) -> float:
    """Return tau^2: what processes of a run vary by beyond their rounds, pooled over cases and with a prior's worth."""
    excess = degrees = 0.0
    for case, runs in cases.items():
        for run in runs:
            if len(run) > 1:
                count = len(run)
                mean = sum(one.mean for one in run) / count
                expected = rounds[case] * sum(1 / one.rounds for one in run) / count
                excess += sum((one.mean - mean) ** 2 for one in run) - (count - 1) * expected
                degrees += count - 1
    return (worth * prior + max(0.0, excess)) / (worth + degrees)


def _scale(runs: Sequence[Run], process: float, rounds: float) -> tuple[float, float]:
    """Return the variance within runs over the expected one, and its degrees of freedom."""
    total, degrees = 0.0, 0
    for run in runs:
        if len(run) > 1:
            total += _scatter(run, process, rounds)
            degrees += len(run) - 1
    return (total / degrees if degrees else 1.0), degrees


def _scatter(run: Run, process: float, rounds: float) -> float:
    """Return the squares about the mean over their expected variances, of processes of unequal length."""
    weights = [1 / (process + rounds / one.rounds) for one in run]
    mean = sum(w * one.mean for w, one in zip(weights, run, strict=True)) / sum(weights)
    return sum(w * (one.mean - mean) ** 2 for w, one in zip(weights, run, strict=True))


def _shrinkage(spread: Sequence[tuple[float, float]], scale: float, worth: float) -> tuple[float, float]:
    """Return what variances are shrunk towards, and how many degrees of freedom that is worth.

    By the moments of log F (Smyth 2004, section 6.2): the logs of variances with d degrees scatter by trigamma(d / 2);
    what they scatter more is how much the cases differ.

    Args:
        spread: variance and degrees of freedom of each case.
        scale: where there are too few cases.
        worth: the same.
    """
    known = [(own, degrees) for own, degrees in spread if degrees and own > 0]
    if len(known) < _FEWEST_CASES:
        return scale, worth
    from scipy.special import digamma, polygamma

    # Cases with few degrees say little, and their logs have long tails.
    logs = [math.log(own) - float(digamma(d / 2)) + math.log(d / 2) for own, d in known]
    excess = variance(logs) - fmean(float(polygamma(1, d / 2)) for _, d in known)
    found = min(_MOST_WORTH, 2 * _inverse_trigamma(excess)) if excess > 0 else _MOST_WORTH
    return math.exp(fmean(logs) + float(digamma(found / 2)) - math.log(found / 2)), found


def _inverse_trigamma(y: float) -> float:
    """Return x with trigamma(x) = y, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    x = 0.5 + 1 / y
    for _ in range(50):
        value = float(polygamma(1, x))
        step = value * (1 - value / y) / float(polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x


def _run(cases: Mapping[str, Sequence[Run]], within: Mapping[str, Noise], prior: Prior) -> tuple[float, float]:
    """Return rho^2 and its degrees of freedom: what the means of runs vary by beyond their processes.

    By moments (DerSimonian & Laird, Control. Clin. Trials 7, 1986), pooled over cases. What a run did to one case it
    may have done to all, so many cases count for no more than one with as many runs.
    """
    excess = weight = 0.0
    longest = 1
    for case, runs in cases.items():
        known = [run for run in runs if run]
        if len(known) < 2:
            continue
        longest = max(longest, len(known))
        means = [(mean, 1 / spread) for mean, spread in map(within[case].mean, known)]
        whole = sum(w for _, w in means)
        centre = sum(w * mean for mean, w in means) / whole
        excess += sum(w * (mean - centre) ** 2 for mean, w in means) - (len(means) - 1)
        weight += whole - sum(w * w for _, w in means) / whole
    degrees = longest - 1
    found = max(0.0, excess / weight) if weight else 0.0
    return (prior.worth * prior.run**2 + degrees * found) / (prior.worth + degrees), prior.worth + degrees
