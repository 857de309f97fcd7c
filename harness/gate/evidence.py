"""What a certificate is judged by, and how two of its numbers are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.case import Case
from harness.certificate import Played, Watched
from harness.plugins import Strategy

SAFETY = 8.0
"""How often the spread of one random rounding a difference may be: it is one draw, and sums over ranks are another."""
LEAST = 2.0**-20
"""A relative difference that no cause but rounding is looked for below: sixteen units in the last place of FP32."""

TURNED = 1e-3
"""Once rounding has changed the weights it may turn a choice: on which side of its corner a ReLU is, seldom which box
is sampled. What follows then differs by far more than rounding (1e-4 was seen), alike for all strategies that add in
one order; so after the first update no other cause is looked for below a thousandth."""
SUMMED = 1e-9
"""Sums of squares are taken in FP64, in parts that depend on the sharding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a certificate is judged by."""

    case: Case
    strategy: Strategy
    reference: Played
    ranks: Sequence[Watched]

    @property
    def copies(self) -> int:
        """On how many ranks each trained element is updated: 1 where the optimizer is sharded, else on all.

        Padding makes a sharded optimizer hold a little more than the model.
        """
        held = sum(group.elements for rank in self.ranks for group in rank.groups)
        return max(1, round(held / self.reference.trained)) if self.reference.trained else 1

    @property
    def norms(self) -> list[float]:
        """Global norm of the gradient that was applied in each step."""
        steps = zip(*(rank.gradient_squares for rank in self.ranks), strict=True)
        return [math.sqrt(sum(step) / self.copies) for step in steps]

    def loss_tolerance(self, step: int) -> float:
        """How far a loss may be off, relatively, at a step, counted from 0: rounding grows with each update."""
        spread = self.reference.rounding
        return tolerance(_largest(spread.losses[: step + 1]) if spread else None, updated=step > 0)

    def norm_tolerance(self, step: int) -> float:
        """How far the gradient norm may be off, relatively, at a step."""
        spread = self.reference.rounding
        return tolerance(
            _largest(spread.gradient_norms[: step + 1]) if spread else None, least=SUMMED, updated=step > 0
        )

    @property
    def played(self) -> Sequence[Watched]:
        """The reference's ranks."""
        return self.reference.ranks


def tolerance(rounding: float | None, *, least: float = 0.0, updated: bool = True) -> float:
    """Return what a relative difference may be.

    Args:
        rounding: what rounding alone was seen to do, or None where no order is open.
        least: what is allowed then.
        updated: whether it is of something after the first update.
    """
    if rounding is None:
        return least
    return max(SAFETY * rounding, TURNED if updated else LEAST)


def _largest(spreads: Sequence[float]) -> float:
    """Return the largest of the steps' spreads; a step whose gradients overflowed has none."""
    return max(filter(math.isfinite, spreads), default=0.0)


def norms_of(rank: Watched) -> list[float]:
    """Return the gradient norms of what a rank applied, one a step."""
    return [math.sqrt(squares) for squares in rank.gradient_squares]


def apart(a: float, b: float) -> float:
    """Return the relative difference of two figures of which b is right; no number is infinitely far."""
    difference = abs(a - b) / abs(b) if b else abs(a)
    return math.inf if math.isnan(difference) else difference


def near(a: float, b: float) -> bool:
    """Return whether two figures are the same but for a thousandth."""
    return abs(a - b) <= 1e-3 * abs(b)
