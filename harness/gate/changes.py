"""What changed of the time of each case between two stored runs, by their processes alone. Pure.

A gate screens and confirms; two stored runs are what they are. So every change is tested once, by all processes of
both, and over all of them a change that is none is reported with a probability of 1 % at most (Holm, Scand. J. Stat. 6,
1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.gate import chance
from harness.gate.contrasts import Contrast, Timed, gather, theta
from harness.gate.doubts import disturbances, losses_of_the_machine, moved
from harness.gate.observations import View
from harness.gate.policy import FALSE_ALARMS, POWER_Z

_VIEWS: tuple[View, ...] = ("same work", "machine", "speedup")
"""The wall time of unchanged code moves by a sixth; it says nothing of two runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Of one view of a case's time, from the first run to the second."""

    view: View
    estimate: float
    """Relative: +.03 is 3 % more."""
    low: float
    """Of the 95 % interval."""
    high: float
    sees: float
    """The smallest change, without sign, that would have been found 99 times in 100."""
    shown: bool
    """Whether it is no chance, and large enough to count."""
    worse: bool
    """Whether it is in the direction that nobody wants."""
    processes: tuple[int, int]


def changes_of(timed: Mapping[str, Timed]) -> dict[str, tuple[Sequence[Change], Sequence[str]]]:
    """Return what changed of the time of each case, and why that is not sure; it counts only where nothing is said.

    Args:
        timed: the processes of the second run as the new ones, those of the first as a level of one run.
    """
    evidence = gather(timed)
    shown = _shown({case: found.whole for case, found in evidence.items()}, timed)
    found: dict[str, tuple[Sequence[Change], Sequence[str]]] = {}
    for case, own in timed.items():
        whole = evidence[case].whole
        changes = [_change(view, whole[view], shown, case, timed) for view in _VIEWS if view in whole]
        doubts = [*disturbances(own.level[0], of="the first run"), *disturbances(own.new, of="the second run")]
        if (shift := moved(evidence[case])) is not None:
            doubts.append(
                f"the plain loop moved {math.expm1(shift):+.1%} against the kernels: the machine is not as it was"
            )
        lost = {one.view: whole[one.view].loss for one in changes if one.shown}
        doubts += losses_of_the_machine(evidence[case], evidence.get(own.base or ""), lost).values()
        if not changes:
            doubts.append("the frozen references of its time are other code: time not compared")
        found[case] = changes, doubts
    return found


def _shown(evidence: Mapping[str, Mapping[View, Contrast]], timed: Mapping[str, Timed]) -> dict[tuple[str, View], bool]:
    """Return which changes are no chance over all of them together (Holm), and large enough to count."""
    p_values = {
        (case, view): 2 * chance.below(-abs(contrast.z()))
        for case, of_case in evidence.items()
        for view, contrast in of_case.items()
        if view in _VIEWS
    }
    found, left, holds = {}, len(p_values), True
    for key, p_value in sorted(p_values.items(), key=lambda item: item[1]):
        holds = holds and p_value <= FALSE_ALARMS / left
        left -= 1
        case, view = key
        found[key] = holds and abs(evidence[case][view].loss) > theta(view, timed[case])
    return found


def _change(
    view: View, contrast: Contrast, shown: Mapping[tuple[str, View], bool], case: str, timed: Mapping[str, Timed]
) -> Change:
    sign = -1 if view == "speedup" else 1
    low, high = contrast.interval(sign)
    least = (chance.student(1 - FALSE_ALARMS / 2 / len(shown), contrast.degrees) + POWER_Z) * contrast.error
    return Change(
        view=view,
        estimate=math.expm1(sign * contrast.loss),
        low=low,
        high=high,
        sees=math.expm1(max(least, theta(view, timed[case]))),
        shown=shown[case, view],
        worse=contrast.loss > 0,
        processes=(contrast.stored, contrast.new),
    )
