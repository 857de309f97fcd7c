"""Whether two strategies train equally well: equivalent within a margin, different, or not resolved. Pure.

That a test found no difference is no proof of sameness; few or scattered seeds find none either. So equivalence is
tested itself, by two one-sided t-tests on the differences of paired seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from harness.errors import HarnessError

ALPHA = 0.05
"""Error rate of each statement about one pair."""

Interval = tuple[float, float]


class NotComparable(HarnessError):
    """Scores cannot be compared: some are missing, or they are no pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """What paired scores say of two strategies; differences are first less second, in the score's unit."""

    word: Literal["equivalent", "different", "unresolved"]
    n: int
    """Pairs."""
    margin: float
    difference: float | None = None
    """Mean of the paired differences; None without a pair."""
    interval90: Interval | None = None
    """Of the mean difference; within the margin on both sides is what makes it equivalent. None where the scatter of
    the differences is not known."""
    interval95: Interval | None = None
    """Of the mean difference; it leaves out 0 when the two are different."""
    p_equivalent: float | None = None
    """The larger p value of the two one-sided tests: how easily strategies a margin apart score so alike."""
    p_different: float | None = None
    """Two-sided p value of the paired t-test: how easily equal strategies score so far apart."""
    note: str = ""
    """Why there are no intervals."""


def compare(first: Sequence[float | None], second: Sequence[float | None], *, margin: float) -> Equivalence:
    """Return whether two strategies are equivalent, different or not resolved, from scores of the same seeds.

    With d the mean and s the standard deviation of the n paired differences, d +- t(1 - a, n - 1) s / sqrt(n) within
    the margin on both sides is `equivalent`: two one-sided t-tests, each at a = .05 (Schuirmann, J. Pharmacokinet.
    Biopharm. 15, 1987; Lakens, Soc. Psychol. Personal. Sci. 8, 2017). Otherwise an interval at 1 - a / 2 without 0 is
    `different`: the paired t-test. Where both hold, a real difference is too small to matter: `equivalent`.

    The error rates hold for one pair of strategies whose differences are normal: a pair whose true difference is the
    margin or more is called equivalent in 5 % of experiments at most, and an equal pair different in 5 % at most. They
    are not corrected for the number of pairs: among 36 pairs (nine strategies) of equal strategies about two would be
    called different by chance, were they not mostly equivalent first. A `different` that matters is worth more seeds.

    The t-tests need scatter. Without any, equal scores in every pair are `equivalent`, for no test could ask for more,
    and a constant difference is `unresolved`: scores come in steps (one image more or less), so that two or three
    differences agree by chance far more often than 5 %.

    Args:
        first: a score for each seed.
        second: the other strategy's, of the same seeds in the same order.
        margin: the largest difference that does not matter, in the score's unit.

    Raises:
        NotComparable: the lengths differ, a score is missing or no finite number, or the margin is not positive.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise NotComparable(f"a margin of {margin} cannot be tested; give a positive number in the score's unit")
    if len(first) != len(second):
        raise NotComparable(
            f"{len(first)} scores against {len(second)} are no pairs; run both strategies with the same seeds"
        )
    pairs = list(zip(_finite(first, "first"), _finite(second, "second"), strict=True))
    n = len(pairs)
    differences = [a - b for a, b in pairs]
    mean = fmean(differences) if n else None
    if mean is None or n < 2:
        note = f"of {n} seed{'s' * (n != 1)} no scatter is known; run 2 or more"
        return Equivalence(word="unresolved", n=n, margin=margin, difference=mean, note=note)
    # Differences of equal steps differ in their last binary digits.
    rounding = 4 * math.ulp(max(abs(score) for pair in pairs for score in pair))
    if max(differences) - min(differences) <= rounding:
        if abs(mean) <= rounding:
            return Equivalence(word="equivalent", n=n, margin=margin, difference=0.0, note="every pair scored the same")
        note = "every pair differs by the same amount, so the scatter is not known"
        return Equivalence(word="unresolved", n=n, margin=margin, difference=mean, note=note)
    return _tested(mean, stdev(differences) / math.sqrt(n), n, margin)


def _tested(mean: float, error: float, n: int, margin: float) -> Equivalence:
    from scipy.stats import t

    def interval(level: float) -> Interval:
        half = float(t.ppf((1 + level) / 2, n - 1)) * error
        return mean - half, mean + half

    narrow, wide = interval(1 - 2 * ALPHA), interval(1 - ALPHA)
    equivalent = -margin < narrow[0] and narrow[1] < margin
    different = not wide[0] <= 0 <= wide[1]
    return Equivalence(
        word="equivalent" if equivalent else "different" if different else "unresolved",
        n=n,
        margin=margin,
        difference=mean,
        interval90=narrow,
        interval95=wide,
        p_equivalent=float(t.sf((margin - abs(mean)) / error, n - 1)),
        p_different=float(2 * t.sf(abs(mean) / error, n - 1)),
    )


def _finite(scores: Sequence[float | None], which: str) -> list[float]:
    checked = []
    for place, score in enumerate(scores):
        if score is None or not math.isfinite(score):
            raise NotComparable(
                f"score {place} of {len(scores)} of the {which} strategy is {'missing' if score is None else score}; "
                "run that seed again, or leave it out of both"
            )
        checked.append(score)
    return checked
