"""Whether this machine's certified runs bear out what a study says: confirmed, contradicted, or cannot tell. Pure.

Speeds are compared by processes, never by the steps of one: the statement is on a sum of mean log steps, its 95 %
interval is Welch's with Satterthwaite's degrees of freedom (Biometrika 34, 1947; Biometrics Bull. 2, 1946), and the
error of 5 % is each claim's own. An ordering holds where the interval leaves out that both are equal; a figure, where
the whole interval lies within a tenth of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Literal

from harness.case import Case
from harness.evidence.runs import Evidence, Run
from harness.gate.chance import student
from harness.plugins import Limit

Word = Literal["confirmed", "contradicted", "cannot tell"]
Pair = tuple[Case, Case]

BAND = 0.1
"""How far from a published ratio this machine's may be and still confirm it, as a share."""
ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a study says, and what was found of it."""

    text: str
    published: str
    """Its figure as printed; empty where it is a question that the study asks."""
    here: str
    """What was measured, with its interval; empty where nothing was."""
    word: Word
    reason: str = ""
    """Why it cannot be told, or what else decides."""
    because: str = ""
    """Where nothing was measured, the reason without its cases, which other claims may have too."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio, and its 95 % interval."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f}x ({self.low:.2f} to {self.high:.2f})"


def estimate(terms: Iterable[tuple[float, Sequence[float]]], factor: float = 1.0) -> Estimate:
    """Return `factor` times exp(the sum of weighted means), with its interval.

    Args:
        terms: weights, and for each two or more logarithms, all independent.
        factor: what is known without error.
    """
    parts = [(weight * fmean(logs), weight**2 * variance(logs) / len(logs), len(logs)) for weight, logs in terms]
    mean, of_mean = sum(part[0] for part in parts), sum(part[1] for part in parts)
    half = 0.0
    if of_mean > 0:
        degrees = of_mean**2 / sum(part**2 / (count - 1) for _, part, count in parts)
        half = student(1 - ALPHA / 2, degrees) * math.sqrt(of_mean)
    return Estimate(*(factor * math.exp(mean + side) for side in (0.0, -half, half)))


Reasons = Mapping[Case, str]
"""Why cases say nothing; empty where all of them do."""


def _timed(evidence: Evidence, cases: Iterable[Case]) -> tuple[list[Run], Reasons]:
    """Return the runs of cases, and why their speeds say nothing."""
    cases = tuple(cases)
    runs = [run for case in cases if (run := evidence.run(case)) is not None]
    reasons = {case: run.no_speed if (run := evidence.run(case)) else evidence.why_not(case) for case in cases}
    return runs, {case: reason for case, reason in reasons.items() if reason}


def throughput_ratio(evidence: Evidence, cases: Pair) -> Estimate | None:
    """Return the images/s of the first case over the second's; None where either's speed says nothing."""
    runs, reasons = _timed(evidence, cases)
    if reasons:
        return None
    (first, second), (above, below) = (run.processes for run in runs), cases
    return estimate([(-1.0, first), (1.0, second)], above.global_batch_size / below.global_batch_size)


def ratio(evidence: Evidence, text: str, cases: Pair, published: float, printed: str = "") -> Claim:
    """Judge a published ratio of speeds.

    Args:
        evidence: what was measured.
        text: what the study says.
        cases: the first's images/s are taken over the second's.
        published: the ratio as its own figures give it.
        printed: what to show for it, if not that.
    """
    told = printed or f"{published:.2f}x"
    found = throughput_ratio(evidence, cases)
    if found is None:
        return untold(text, told, _timed(evidence, cases)[1])
    low, high = published * (1 - BAND), published * (1 + BAND)
    if low <= found.low and found.high <= high:
        return Claim(text=text, published=told, here=str(found), word="confirmed")
    if found.high < low or found.low > high:
        return Claim(text=text, published=told, here=str(found), word="contradicted")
    why = f"the interval is neither within nor without {low:.2f} to {high:.2f}"
    return Claim(text=text, published=told, here=str(found), word="cannot tell", reason=why)


def faster(evidence: Evidence, text: str, cases: Pair, published: str = "") -> Claim:
    """Judge that the first case trains more images/s than the second.

    Args:
        evidence: what was measured.
        text: what the study says.
        cases: the one that is said to be faster, and the other.
        published: its figures as printed.
    """
    found = throughput_ratio(evidence, cases)
    if found is None:
        return untold(text, published, _timed(evidence, cases)[1])
    word: Word = "confirmed" if found.low > 1 else "contradicted" if found.high < 1 else "cannot tell"
    why = "the interval holds 1" if word == "cannot tell" else ""
    return Claim(text=text, published=published, here=f"speed {found}", word=word, reason=why)


def less_memory(evidence: Evidence, text: str, cases: Pair, limit: Limit, published: str = "") -> Claim:
    """Judge that the first case needs less peak memory than the second.

    Args:
        evidence: what was measured.
        text: what the study says.
        cases: the one that is said to need less, and the other.
        limit: what peaks of unchanged code differ by at most.
        published: its figures as printed.
    """
    runs, reasons = certified(evidence, cases)
    peaks = [run.peak_bytes for run in runs]
    if reasons or None in peaks:
        return untold(text, published, reasons or "no peak memory was measured")
    ours, theirs = (peak or 0 for peak in peaks)
    here = f"{ours / 2**30:.3f} against {theirs / 2**30:.3f} GiB"
    noise = max(limit.absolute, limit.relative * theirs)
    if abs(ours - theirs) <= noise:
        why = f"peaks of unchanged code differ by up to {noise / 2**30:.3f} GiB"
        return Claim(text=text, published=published, here=here, word="cannot tell", reason=why)
    return Claim(text=text, published=published, here=here, word="confirmed" if ours < theirs else "contradicted")


def certified(evidence: Evidence, cases: Iterable[Case]) -> tuple[list[Run], Reasons]:
    """Return the runs of those cases that are certified, and why the others say nothing."""
    cases = tuple(cases)
    runs = [run for case in cases if (run := evidence.certified(case)) is not None]
    reasons = {}
    for case in cases:
        run = evidence.run(case)
        if run is None:
            reasons[case] = evidence.why_not(case)
        elif run.uncertified:
            reasons[case] = f"not certified: {run.uncertified}"
    return runs, reasons


def untold(text: str, published: str, reasons: Reasons | str) -> Claim:
    """Return a claim of which nothing was measured: why not by case, or in words."""
    if isinstance(reasons, str):
        reason = because = reasons
    else:
        by_reason: dict[str, list[str]] = {}
        for case, why in reasons.items():
            by_reason.setdefault(why, []).append(case.id)
        reason = "; ".join(f"{', '.join(ids)}: {why}" for why, ids in by_reason.items())
        because = "; ".join(by_reason)
    return Claim(text=text, published=published, here="", word="cannot tell", reason=reason, because=because)
