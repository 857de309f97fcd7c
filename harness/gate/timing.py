"""Whether a case became slower or faster: the screen, the confirmation on fresh processes, and the verdict. Pure.

The processes of a confirmation are fresh, but the stored ones and the state of the machine in this run are those of the
screen. So a confirmation is no independent test: its p value is that of the confirmation *given* that the screen had
found the case suspect, with the correlation that what both share makes. Where the accepted code ran beside the
candidate, they share nothing. A case that passes from run to run may still creep: so its drift over the level is judged
too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from harness.gate import chance, detectable
from harness.gate.contrasts import Contrasts, Timed, correlation, cut, gather, theta
from harness.gate.doubts import disturbances, losses_of_the_machine, shifts
from harness.gate.observations import View
from harness.gate.policy import CREEP_ALARMS, FALSE_ALARMS, FALSE_ALARMS_OF_CASE, MOVED_Z, Policy
from harness.gate.screening import JUDGED, Screen, Suspect, primary, suspects_of, tested

TimeWord = Literal["passed", "regressed", "improved", "unresolved", "incomparable", "new"]

_RATIOS: frozenset[View] = frozenset({"same work", "machine"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A change in one view, relative: +.03 is 3 % more than the stored level."""

    view: View
    better: Literal["lower", "higher"]
    """`higher` for the speedup alone, of which +.03 is good; of the others, which are times, it is bad."""
    estimate: float
    low: float
    """Of the 95 % interval."""
    high: float
    mde: float
    """The smallest true loss, without sign, that this view finds 99 times in 100, confirmation included."""
    new_processes: int
    stored_processes: int
    stored_runs: int
    paired: bool = False
    """Whether the stored processes are of the accepted code, run beside the new ones."""

    @property
    def against(self) -> str:
        """What the new processes were held to, in words."""
        beside = "of the accepted code beside them" if self.paired else f"of {self.stored_runs} stored runs"
        return f"{self.stored_processes} {beside}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeVerdict:
    """What became of a case's time."""

    word: TimeWord
    effects: tuple[Effect, ...] = ()
    """Of each view that could be compared, by the fresh processes where they were to confirm it."""
    reasons: tuple[str, ...] = ()
    """Why, a sentence each."""
    unpaired: bool = True
    """Whether the accepted code was measured in other runs, not beside this one; true too where nothing had to be
    confirmed."""
    processes_needed: int | None = None
    """Of the confirmation, until an unresolved case would show what the policy demands; None where no number would."""


def screen(cases: Mapping[str, Timed]) -> Screen:
    """Return which cases are to be confirmed, by the processes of the screen."""
    return suspects_of(cases, gather(cases))


def judge_time(cases: Mapping[str, Timed], policy: Policy) -> dict[str, TimeVerdict]:
    """Return the verdict on the time of each case of a run.

    A case is judged by its confirmation where it has one. Over all confirmed suspicions of a run a false regression has
    a probability of at most `FALSE_ALARMS` (Holm, Scand. J. Stat. 6, 1979), in small runs `FALSE_ALARMS_OF_CASE` for
    each case; and a false improvement too.
    """
    evidence = gather(cases)
    found = suspects_of(cases, evidence)
    whole = min(FALSE_ALARMS, FALSE_ALARMS_OF_CASE * len(cases))
    alarms = (1 - CREEP_ALARMS) * whole
    confirmed = {one for worse in (True, False) for one in _confirmed(cases, evidence, found, alarms, worse=worse)}
    pending = {one.case for one in found.suspects if one.worse and one.view not in evidence[one.case].fresh}
    verdicts = {
        case: _verdict(case, timed, evidence, policy, alarms, confirmed, found, case in pending)
        for case, timed in cases.items()
    }
    return {
        case: _with_creep(one, cases[case], evidence[case], CREEP_ALARMS * whole / len(cases))
        for case, one in verdicts.items()
    }


def needs_more(cases: Mapping[str, Timed], policy: Policy, *, done: int) -> dict[str, int]:
    """Return how many fresh processes to take next of each unresolved case that they would help, and of its base.

    Twice as many each time.

    What is unresolved depends on variances alone, never on the change that was found; so measuring again until the
    variance is small does not raise the false alarms, and each look may spend them all.

    Args:
        cases: of the run, all that was measured so far among it.
        policy: has the largest number of rounds.
        done: rounds of measuring again that there were.
    """
    if done >= policy.max_rounds:
        return {}
    verdicts = judge_time(cases, policy).items()
    wanted = [case for case, one in verdicts if one.word == "unresolved" and one.processes_needed is not None]
    more = {base for case in wanted if (base := cases[case].base) is not None and base in cases}
    return dict.fromkeys(sorted({*wanted, *more}), policy.confirm_processes * 2 ** (done + 1))


def _confirmed(
    cases: Mapping[str, Timed], evidence: Mapping[str, Contrasts], found: Screen, alarms: float, *, worse: bool
) -> set[Suspect]:
    """Return the suspicions of one direction that hold on fresh processes alone (Holm)."""
    sign = 1 if worse else -1
    p_values = {}
    for case, own in evidence.items():
        for view in tested(case, own, found):
            one = Suspect(case=case, view=view, worse=worse)
            if one in found.suspects:
                p_values[one] = _p_value(one, cases[case], own, sign)
            elif view == primary(own):
                p_values[one] = chance.below(-own.fresh[view].z(sign))
    held: set[Suspect] = set()
    left = len(p_values)
    for one, p_value in sorted(p_values.items(), key=lambda item: item[1]):
        if p_value > alarms / left:
            break
        left -= 1
        if sign * evidence[one.case].fresh[one.view].loss > theta(one.view, cases[one.case]):
            held.add(one)
    return held


def _with_creep(verdict: TimeVerdict, timed: Timed, evidence: Contrasts, alarms: float) -> TimeVerdict:
    """Return the verdict on a case that passes; regressed, if it drifted away from what it once was.

    Not of one that the code which began the level was found to be as slow as: it drifted with the machine.
    """
    view = primary(evidence)
    crept = evidence.crept.get(view)
    if verdict.word != "passed" or not verdict.unpaired or crept is None or crept.loss <= theta(view, timed):
        return verdict
    if chance.below(-crept.z()) > alarms:
        return verdict
    reason = f"crept: {view} {math.expm1(crept.loss):+.1%} over {crept.runs + 1} runs, none of which showed it alone"
    return replace(verdict, word="regressed", reasons=(reason,))


def _p_value(suspect: Suspect, timed: Timed, evidence: Contrasts, sign: int) -> float:
    """Return how easily an unchanged case that the screen found suspect is confirmed as clearly."""
    before, after = evidence.screen[suspect.view], evidence.fresh[suspect.view]
    given = cut(suspect.view, before, theta(suspect.view, timed))
    return chance.above_given(after.z(sign), given, correlation(before, after))


def _verdict(
    case: str,
    timed: Timed,
    everyone: Mapping[str, Contrasts],
    policy: Policy,
    alarms: float,
    confirmed: Collection[Suspect],
    found: Screen,
    pending: bool,
) -> TimeVerdict:
    evidence = everyone[case]
    if not timed.level:
        return TimeVerdict(word="new")
    if not timed.new:
        return TimeVerdict(word="unresolved", reasons=("no process of this run measured it",))
    effects = tuple(_effects(timed, evidence, policy, alarms, tested(case, evidence, found)))
    changed = _changed_references(timed)
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...]
    if changed:
        notes = (f"the code of the reference {' and '.join(changed)} changed since: record the case again",)
    elif lost := sorted(_RATIOS & _views(timed) - evidence.whole.keys()):
        reasons = (f"no view of {' and '.join(lost)} any more: a figure is missing or zero",)
        return TimeVerdict(word="unresolved", effects=effects, reasons=reasons)
    if not _RATIOS & evidence.whole.keys():
        return TimeVerdict(
            word="incomparable", effects=effects, reasons=notes or ("no ratio to a reference is stored",)
        )
    worse = {one.view for one in confirmed if one.case == case and one.worse}
    main_fresh = evidence.fresh.get(primary(evidence))
    paired = main_fresh is not None and main_fresh.paired
    base = everyone.get(timed.base or "") if "speedup" in worse else None
    losses = {view: evidence.fresh[view].loss for view in worse}
    machines = {} if paired else losses_of_the_machine(evidence, base, losses)
    worse -= machines.keys()
    disturbed = tuple(disturbances(timed.new))
    shifted = tuple(shifts(evidence, slower="machine" in worse))
    if disturbed or shifted or (machines and not worse):
        shifted = (*machines.values(), *shifted)
        again = None if shifted else policy.confirm_processes
        return TimeVerdict(word="unresolved", effects=effects, reasons=(*shifted, *disturbed), processes_needed=again)
    told = {effect.view: effect for effect in effects}
    if "wall" in worse and "machine" in evidence.fresh and evidence.fresh["machine"].loss <= theta("wall", timed):
        # Net of the kernels the tripwire is not reached; the machine view itself has the rest.
        worse.remove("wall")
        notes += ("its wall time rose, and that of the frozen kernels with it: the machine is slower, not the case",)
    if worse:
        reasons = tuple(_changed(told[view]) for view in JUDGED if view in worse)
        return TimeVerdict(word="regressed", effects=effects, reasons=reasons, unpaired=not paired)
    if pending:
        reasons = ("suspected of a change, and not measured again to confirm or to clear it",)
        return TimeVerdict(
            word="unresolved", effects=effects, reasons=reasons, processes_needed=policy.confirm_processes
        )
    if better := {one.view for one in confirmed if one.case == case and not one.worse}:
        reasons = tuple(_changed(told[view]) for view in JUDGED if view in better)
        return TimeVerdict(word="improved", effects=effects, reasons=reasons, unpaired=not paired)
    demanded = policy.sees(timed.ranks) + timed.budget
    main = told[primary(evidence)]
    if main.mde > demanded:
        needed = detectable.needed(main.view, timed, evidence, policy, alarms, demanded)
        reasons = (f"{main.view}: it must slow down by {sees(main.mde)} to be seen, and {demanded:.0%} is demanded",)
        return TimeVerdict(word="unresolved", effects=effects, reasons=reasons, processes_needed=needed)
    if paired and _lost(evidence, timed):
        notes += ("slower than the stored runs, and so is the accepted code beside it: what both run on, not the case",)
    return TimeVerdict(word="passed", effects=effects, reasons=notes, unpaired=not paired)


def _lost(evidence: Contrasts, timed: Timed) -> bool:
    """Return whether all that was measured of the candidate is slower than the stored runs, which is no chance."""
    seen = (evidence.whole.get(view) for view in ("same work", "machine"))
    return any(one is not None and one.loss > theta("machine", timed) and one.z() > MOVED_Z for one in seen)


def _changed(effect: Effect) -> str:
    return (
        f"{effect.view}: {effect.estimate:+.1%} (95 % interval {effect.low:+.1%} to {effect.high:+.1%}), "
        f"{effect.new_processes} processes against {effect.against}"
    )


def sees(mde: float) -> str:
    """Return the smallest effect that is seen, in words."""
    return f"{mde:.1%}" if mde <= 1 else "over 100%"


def _views(timed: Timed) -> set[View]:
    """Return those that any stored process holds."""
    return {view for run in timed.level for one in run for view in one.views}


def _changed_references(timed: Timed) -> list[str]:
    ours, theirs = timed.new[0].references, [one.references for run in timed.level for one in run]
    return [name for name, digest in ours.items() if all(one.get(name) != digest for one in theirs)]


def _effects(
    timed: Timed, evidence: Contrasts, policy: Policy, alarms: float, confirmed: Collection[View]
) -> Iterator[Effect]:
    for view in JUDGED:
        contrast = evidence.fresh[view] if view in confirmed else evidence.screen.get(view)
        if contrast is None:
            continue
        sign = -1 if view == "speedup" else 1
        low, high = contrast.interval(sign)
        yield Effect(
            view=view,
            better="higher" if view == "speedup" else "lower",
            estimate=math.expm1(sign * contrast.loss),
            low=low,
            high=high,
            mde=math.expm1(detectable.smallest(view, timed, evidence, policy, alarms, confirmed=view in confirmed)),
            new_processes=contrast.new,
            stored_processes=contrast.stored,
            stored_runs=contrast.runs,
            paired=contrast.paired,
        )
