"""Judges the time of all cases of a run together: the screen, the confirmation of suspects, and what is measured again.

All of it comes before the first test, since a verdict may need the other cases: how noisy they are, whether the machine
changed, how many were suspected.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from harness.anatomy.telemetry import observed
from harness.case import Case
from harness.gate.contrasts import Timed
from harness.gate.noise import group_of
from harness.gate.observations import Process, machine
from harness.gate.policy import CERTIFICATE_S, CONFIRM_SHARE, LEAST_SCREEN_S, Policy
from harness.gate.selftest import LEAST_PROCESSES, Selftest, selftest
from harness.gate.timing import TimeVerdict, judge_time, needs_more, screen
from harness.records.samples import Samples
from harness.running.accepted import NoAcceptedCode
from harness.running.sampler import Sampler

Level = Sequence[Sequence[Samples]]
"""Stored processes, by run."""


@dataclass(slots=True, kw_only=True)
class Timekeeper:
    """Has the verdicts on the time of a run's cases."""

    sampler: Sampler
    policy: Policy
    base_of: Callable[[Case], Case]
    """The case that a case's speedup is taken over."""
    accepted: Callable[[Case], Sampler]
    """What takes processes of the code that a case was accepted with; raises NoAcceptedCode."""
    budget_s: float | None = None
    """For the screen of a case; None leaves the number of processes to the policy."""
    certified: Callable[[Case], bool] = lambda case: False
    """Whether a case's certificate is kept, so that none has to be made after the screen."""
    forbidden: str = ""
    """Why no time of this machine is judged; nothing where it is."""
    verdicts: dict[Case, TimeVerdict] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    """What is odd about the run as a whole, a sentence each."""
    _levels: dict[Case, tuple[tuple[Process, ...], ...]] = field(default_factory=dict)
    _screen_s: float | None = None
    """What the screen of this run may take; None for any time."""
    _beside: dict[Case, Sampler] = field(default_factory=dict)
    """What took processes of accepted code for a case."""

    def run(self, levels: Mapping[Case, Level]) -> None:
        """Measure and judge.

        Args:
            levels: what each case is held to, nothing for a new one; with the bases of speedups among them.
        """
        self._levels = {case: tuple(tuple(map(observed, run)) for run in level) for case, level in levels.items()}
        if self.forbidden:
            return
        policy, take = self.policy, self.sampler.take
        self._screen_s = self._allowed_s(levels)
        until_s = None if self._screen_s is None else time.monotonic() + self._screen_s
        take(self._first(), stage="screen", rounds_s=policy.rounds_s, until_s=until_s)
        if self.budget_s:
            take(self._within(self.budget_s), stage="screen", rounds_s=policy.rounds_s)
        found = screen(self.cases())
        self.said += found.said
        until_s = None if self._screen_s is None else time.monotonic() + CONFIRM_SHARE * self._screen_s
        self._confirm({Case.parse(name): policy.confirm_processes for name in found.confirm}, until_s)
        again_s = policy.again_s if self.budget_s is None else self.budget_s * len(self._levels)
        until_s, done = time.monotonic() + again_s, 0
        while time.monotonic() < until_s and (more := needs_more(self.cases(), policy, done=done)):
            self._confirm({Case.parse(name): count for name, count in more.items()}, until_s=until_s)
            done += 1
        judged = judge_time(self.cases(), policy)
        self.verdicts = {case: judged[case.id] for case in self._levels if case.id in judged}

    def selftest(self, cases: Sequence[Case]) -> Selftest:
        """Measure unchanged cases, and say whether their noise is what the gate takes it for."""
        policy = self.policy
        wanted = max(LEAST_PROCESSES, 2 * policy.processes)
        self.sampler.take(dict.fromkeys(cases, wanted), stage="screen", rounds_s=policy.rounds_s)
        seen = {case: self.sampler.of(case) for case in cases}
        return selftest(
            {case.id: [observed(one) for one in processes] for case, processes in seen.items()},
            {case.id: group_of(case) for case in cases},
            policy,
        )

    def verdict(self, case: Case) -> TimeVerdict | None:
        """Return the verdict on a case's time; None where it was none of this run's to judge."""
        if case not in self._levels:
            return None
        if self.forbidden:
            return TimeVerdict(word="unresolved", reasons=(self.forbidden,))
        if failure := self.sampler.failed.get(case):
            why = f"it could not be timed beside its references: {str(failure).splitlines()[0]}"
            return TimeVerdict(word="unresolved", reasons=(why,))
        if case not in self.verdicts:
            why = f"its turn did not come within the {self._screen_s or 0:g} s of policy {self.policy.name}"
            return TimeVerdict(word="unresolved", reasons=(f"{why}: name fewer cases, or give --gate-budget",))
        return self.verdicts[case]

    def speedup(self, case: Case) -> float | None:
        """Return a case's throughput over its base's, both against the kernels beside them; None without processes.

        Single steps of short runs differ by more than any bound on a speedup could allow.
        """
        base = self.base_of(case)
        own, theirs = (
            [seen.mean for one in self.sampler.of(of) if (seen := machine(one)) is not None] for of in (case, base)
        )
        if not own or not theirs:
            return None
        return case.global_batch_size / base.global_batch_size * math.exp(fmean(theirs) - fmean(own))

    def cases(self) -> dict[str, Timed]:
        """Return what is known of the time of each case that was measured, by its id."""
        return {
            case.id: Timed(
                new=tuple(map(observed, self.sampler.of(case))),
                level=level,
                group=group_of(case),
                base=self.base_of(case).id,
                beside=tuple(map(observed, self.beside(case))),
            )
            for case, level in self._levels.items()
            if self.sampler.of(case)
        }

    def beside(self, case: Case) -> tuple[Samples, ...]:
        """Return the processes of accepted code that a case was confirmed beside; none where it was not."""
        return self._beside[case].of(case) if case in self._beside else ()

    def _allowed_s(self, cases: Collection[Case]) -> float | None:
        """Return what the screen of some cases may take, or None for any time."""
        most_s = self.policy.screen_s
        if most_s is None or self.budget_s:
            return None
        missing = sum(not self.certified(case) for case in cases)
        return min(most_s, max(most_s - CERTIFICATE_S * missing, LEAST_SCREEN_S))

    def _confirm(self, wanted: Mapping[Case, int], until_s: float | None = None) -> None:
        """Take fresh processes, in turns with as many of the accepted code where that is to be had."""
        alone = dict(wanted)
        if self.policy.agents:
            for accepted, cases in self._sides(wanted):
                self.sampler.take_beside(
                    accepted,
                    {case: wanted[case] for case in cases},
                    agents=self.policy.agents,
                    rounds_s=self.policy.confirm_rounds_s,
                    until_s=until_s,
                )
                for case in cases:
                    if failure := accepted.failed.get(case):
                        # What it may have taken before has no counterpart for each process of the candidate.
                        self._unpaired(f"{case}: the accepted code fails: {str(failure).splitlines()[0]}")
                    else:
                        self._beside[case] = accepted
                        del alone[case]
        self.sampler.take(alone, stage="confirm", rounds_s=self.policy.confirm_rounds_s, until_s=until_s)

    def _sides(self, cases: Collection[Case]) -> list[tuple[Sampler, list[Case]]]:
        """Return what takes processes of accepted code, with the cases of each; the rest is confirmed alone."""
        found: dict[int, tuple[Sampler, list[Case]]] = {}
        for case in cases:
            try:
                accepted = self.accepted(case)
            except NoAcceptedCode as reason:
                self._unpaired(str(reason))
            else:
                if case not in accepted.failed:
                    found.setdefault(id(accepted), (accepted, []))[1].append(case)
        return list(found.values())

    def _unpaired(self, why: str) -> None:
        if (sentence := f"unpaired: {why}") not in self.said:
            self.said += (sentence,)

    def _first(self) -> dict[Case, int]:
        return dict.fromkeys(self._levels, 1 if self.budget_s else self.policy.processes)

    def _within(self, budget_s: float) -> dict[Case, int]:
        """Return how many further processes of each case its budget pays for, by what the first one cost."""
        return {
            case: self.policy.within(budget_s, self.sampler.of(case)[0].wall_s).processes - 1
            for case in self._levels
            if self.sampler.of(case)
        }
