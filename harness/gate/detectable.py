"""The smallest slowdown that a case would show, and how many processes would make it as small as is demanded. Pure."""

from __future__ import annotations

import math

from harness.gate import chance
from harness.gate.contrasts import Contrast, Contrasts, Timed, correlation, cut, theta
from harness.gate.observations import View
from harness.gate.policy import POWER_Z, Policy

_MOST_PROCESSES = 1000


def smallest(view: View, timed: Timed, evidence: Contrasts, policy: Policy, alarms: float, *, confirmed: bool) -> float:
    """Return the loss that is found with 99 % power: it passes the screen, and is confirmed.

    Args:
        view: to look at.
        timed: the case.
        evidence: what there is of it.
        policy: how it would be confirmed.
        alarms: the false alarms of the run, which a lone suspect may spend alone.
        confirmed: whether the fresh processes are judged, and not those of the screen.
    """
    least = theta(view, timed)
    if confirmed:
        after = evidence.fresh[view]
        return _confirmable(view, evidence.screen.get(view, after), after, least, alarms)
    before = evidence.screen[view]
    screened = chance.student(chance.below(cut(view, before, least)), before.degrees) * before.error
    foreseen = before.with_new(policy.confirm_processes)
    return max(screened + POWER_Z * before.error, _confirmable(view, before, foreseen, least, alarms))


def needed(view: View, timed: Timed, evidence: Contrasts, policy: Policy, alarms: float, demanded: float) -> int | None:
    """Return the processes of a confirmation that would show a slowdown, by doubling; None where 1000 would not.

    Args:
        view: to look at.
        timed: the case.
        evidence: what there is of it.
        policy: where to begin.
        alarms: the false alarms of the run.
        demanded: the slowdown, as a share.
    """
    seen = evidence.fresh.get(view) or evidence.screen[view]
    count = policy.confirm_processes
    while count <= _MOST_PROCESSES:
        if _confirmable(view, seen, seen.with_new(count), theta(view, timed), alarms) <= math.log1p(demanded):
            return count
        count *= 2
    return None


def _confirmable(view: View, before: Contrast, after: Contrast, least: float, alarms: float) -> float:
    z = chance.clear(cut(view, before, least), correlation(before, after), alarms)
    clear = chance.student(chance.below(z), after.degrees) * after.error
    return max(clear, least) + POWER_Z * after.error
