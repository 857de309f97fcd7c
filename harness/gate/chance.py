"""Probabilities that the time layer needs: Student's t, the binomial, and two correlated normal deviates. Pure."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_NORMAL = NormalDist()
_FARTHEST = 8.0


def below(z: float) -> float:
    """Return the probability that a normal deviate is at most z."""
    return math.erfc(-z / math.sqrt(2)) / 2


def student(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def as_normal(t: float, degrees: float) -> float:
    """Return the normal deviate as unlikely as a t with so many degrees of freedom."""
    from scipy.special import ndtri, stdtr

    # By the tail on its own side, which keeps its digits.
    return math.copysign(float(ndtri(max(float(stdtr(degrees, -abs(t))), 1e-300))), t) if t else 0.0


def most_of(count: int, probability: float) -> int:
    """Return the number of events that so many independent chances exceed once in 1000 at most."""
    held, term = 0.0, (1 - probability) ** count
    for events in range(count + 1):
        held += term
        if held >= 0.999:
            return events
        term *= (count - events) / (events + 1) * probability / (1 - probability)
    return count


def proportion(events: int, of: int, confidence: float) -> tuple[float, float]:
    """Return the exact bounds of a probability (Clopper & Pearson, Biometrika 26, 1934); each holds alone."""
    from scipy.stats import beta

    low = float(beta.ppf(1 - confidence, events, of - events + 1)) if events else 0.0
    high = float(beta.ppf(confidence, events + 1, of - events)) if events < of else 1.0
    return low, high


def above_given(z: float, given: float, correlation: float) -> float:
    """Return P(Z > z | Y > given), Z and Y being normal deviates with that correlation, of 0 to 1.

    P(Z > z, Y > y) is the integral of phi(t) P(Z > z | Y = t) over t > y; by Simpson's rule over 8 standard deviations.
    """
    given = min(given, _FARTHEST)
    beyond = below(-given)
    if correlation >= 0.999:
        return min(1.0, below(-max(z, given)) / beyond)
    spread = math.sqrt(1 - correlation**2)
    steps, width = 64, 8.0
    total = 0.0
    for step in range(steps + 1):
        at = given + width * step / steps
        factor = 1 if step in (0, steps) else 4 if step % 2 else 2
        total += factor * _NORMAL.pdf(at) * below((correlation * at - z) / spread)
    return min(1.0, total * width / steps / 3 / beyond)


def clear(given: float, correlation: float, probability: float) -> float:
    """Return the z to which `above_given` gives that probability, arguments rounded up to tenths and hundredths."""
    return _clear(math.ceil(10 * min(_FARTHEST, given)), math.ceil(100 * min(1.0, correlation) - 1e-9), probability)


@lru_cache(maxsize=4096)
def _clear(tenths: int, hundredths: int, probability: float) -> float:
    low, high = 0.0, 12.0
    for _ in range(30):
        middle = (low + high) / 2
        missed = above_given(middle, tenths / 10, hundredths / 100) > probability
        low, high = (middle, high) if missed else (low, middle)
    return high
