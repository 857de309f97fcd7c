"""How much a run measures, what it must see, and what it does about a case that it could not judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from harness.errors import HarnessError, unknown
from harness.gate.observations import View

SCREEN_Z: dict[View, float] = {"same work": 1.645, "machine": 2.326, "speedup": 2.326, "wall": 2.326}
"""One unchanged case in 20 is confirmed for nothing by the same work, one in 100 by each of the others: their theta is
large against what a confirmation sees, so that a stricter screen loses nothing, and saves time."""
FALSE_ALARMS = 0.01
"""Of one run, over all its cases and views (Holm): of 100 cases each has .01 %."""
FALSE_ALARMS_OF_CASE = 0.0002
"""What a run of fewer than 50 cases may spend for each; one false red in 50 nights of 100 cases would be this."""
CREEP_RUNS = 4
"""Stored runs of a level from which on its drift is judged; with fewer their scatter is not known."""
CREEP_ALARMS = 0.1
"""The share of a run's false alarms that drifts may spend, a case as much as another; the rest is the suspects'."""
POWER_Z = 2.326
"""99 %: the effects that a verdict says it sees, it misses once in 100."""
THETA: dict[View, float] = {"same work": 0.02, "machine": 0.05, "speedup": 0.05, "wall": 0.25, "control": 0.05}
"""The smallest change that counts. Two draws of a process's memory layout differ by as much as 2 %; kernels and steps
are not slowed alike by a busier machine, to some 3 %; the wall time of unchanged code moves by a sixth, so that it is
no more than a tripwire."""
MOST_SUSPECTS = 0.10
"""Of the cases, twice of what chance makes: more is a change of the machine, or one that hits everything."""
MOST_DISTURBED = 0.20
"""Of a case's new processes: of those that were disturbed, or did not settle."""
MOVED_Z = 3.09
"""Of a control, which nobody changed: one in 1000 in either direction by chance, and by more than its theta."""
CERTIFICATE_S = 3.0
"""What making a certificate takes from a screen that has an end: about as long as that takes."""
LEAST_SCREEN_S = 15.0
"""What is left to it however many are to be made."""
CONFIRM_SHARE = 0.5
"""How long the confirmation of all suspects of such a screen may take, of what the screen may. On a machine that is not
as it was, many are suspect, and each takes half a minute; what is not confirmed by then is unresolved."""
UNLIKE = 1.5
"""A plain loop that moved by at most so many times what the kernels did, as logarithms, may have moved with the
machine: one at another speed is seldom that for kernels and models alike. One evening kernels took 1.35 times as long
as when they were stored, and one model's plain loop of many 1.28 times as long as they."""
UNLIKE_Z = 1.5
"""How many standard errors of a wall time are added to what the kernels were seen to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a run decides."""

    name: str
    processes: int
    """Of each case, before there is any suspicion."""
    confirm_processes: int
    """Of each suspect, fresh."""
    rounds_s: float
    """Interleaved work of one process."""
    confirm_rounds_s: float
    max_rounds: int
    """Of measuring unresolved cases again, with twice the processes each time."""
    agents: int
    """Agents that the confirmation of a suspect is spread over, of the candidate and, where the accepted commit can be
    laid out, of the accepted code beside it; 0 confirms against the stored runs alone."""
    unresolved: Literal["pass", "tell", "fail"]
    """Whether an unresolved case passes, is told by the exit code of the run, or fails."""
    sees_one: float
    """The same-work slowdown that a case of one rank must be able to show, as a share; above it, it is unresolved."""
    sees_several: float
    """The same for several ranks."""
    screen_s: float | None = None
    """Seconds that the screen of a run may take, less `CERTIFICATE_S` for each certificate to be made; cases that are
    not reached are unresolved. None takes all."""
    again_s: float = 1200.0
    """Seconds that measuring unresolved cases again may take."""

    def sees(self, ranks: int) -> float:
        """Return the same-work slowdown that a case on this many ranks must be able to show, as a share."""
        return self.sees_one if ranks == 1 else self.sees_several

    def within(self, budget_s: float, process_s: float) -> Policy:
        """Return the policy with as many processes of a case as a budget pays for, at least one.

        Args:
            budget_s: seconds for a case, without confirmation.
            process_s: seconds of one process, from asking for it to holding its report.

        Raises:
            HarnessError: they are no times.
        """
        if not (budget_s > 0 and process_s > 0):
            raise HarnessError(f"a budget of {budget_s} s at {process_s} s a process buys nothing; give more than 0 s")
        return replace(self, processes=max(1, int(budget_s / process_s)))


POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(
            name="pr",
            processes=1,
            confirm_processes=5,
            rounds_s=1.0,
            confirm_rounds_s=2.0,
            max_rounds=0,
            agents=0,
            unresolved="pass",
            sees_one=0.25,
            sees_several=0.50,
            screen_s=120.0,
        ),
        Policy(
            name="nightly",
            processes=5,
            confirm_processes=20,
            rounds_s=4.0,
            confirm_rounds_s=4.0,
            max_rounds=3,
            agents=4,
            unresolved="tell",
            sees_one=0.08,
            sees_several=0.25,
        ),
        Policy(
            name="release",
            processes=10,
            confirm_processes=40,
            rounds_s=4.0,
            confirm_rounds_s=4.0,
            max_rounds=0,
            agents=8,
            unresolved="fail",
            sees_one=0.06,
            sees_several=0.15,
        ),
    )
}


def named(name: str) -> Policy:
    """Return the policy of that name.

    Raises:
        HarnessError: there is none.
    """
    if name not in POLICIES:
        raise HarnessError(unknown("gate policy", name, POLICIES))
    return POLICIES[name]
