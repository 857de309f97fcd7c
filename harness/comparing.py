"""Two stored runs beside each other, case by case, by the rules and the noise of the gate. Pure.

A gate screens and confirms; two stored runs are what they are. So every change of time is tested once, by all processes
of both, and over all of them a change that is none is reported with a probability of 1 % at most (Holm, Scand. J. Stat.
6, 1979). What depends on the machine is compared on one kind of machine alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.anatomy.telemetry import disturbance
from harness.case import Case
from harness.gate import chance, exact, limits, portable
from harness.gate.contrasts import Contrast, Timed, gather, theta
from harness.gate.doubts import moved
from harness.gate.observations import Process, View, observe
from harness.gate.policy import FALSE_ALARMS, MOST_DISTURBED, POWER_Z
from harness.metrics import timing
from harness.plugins import Metric
from harness.records.samples import Samples
from harness.store import Stored

Word = Literal["worse", "better", "alike", "unsure", "refused"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One case of both runs."""

    case: Case
    before: Stored
    after: Stored
    word: Word
    changes: tuple[Change, ...] = ()
    """Of its time; empty where that is not compared."""
    worse: tuple[str, ...] = ()
    """What became worse, a sentence each."""
    better: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Why something is not compared or not sure, and what else differs."""

    @property
    def primary(self) -> Change | None:
        """The change that stands for its time: the step against the same work, or else against the kernels."""
        ratios = [change for change in self.changes if change.view != "speedup"]
        return ratios[0] if ratios else None


def compare(
    before: Mapping[Case, Stored],
    after: Mapping[Case, Stored],
    *,
    metrics: Sequence[Metric],
    base_of: Mapping[Case, Case],
) -> list[Compared]:
    """Return every case that both runs hold, in the order of the second.

    Args:
        before: of the first run.
        after: of the second run.
        metrics: all of them.
        base_of: of each case the one that its speedup is taken over.
    """
    both = [case for case in after if case in before]
    untimed = {case: why for case in both if (why := _untimed(before[case], after[case]))}
    timed = {
        case.id: Timed(
            new=_processes(after[case].result.samples),
            level=(_processes(before[case].result.samples),),
            group=f"{case.strategy} {case.gpu_count}",
            base=base_of[case].id,
        )
        for case in both
        if case not in untimed
    }
    evidence = gather(timed)
    shown = _shown({case: found.whole for case, found in evidence.items()}, timed)
    compared = []
    for case in both:
        if refusal := _refused(before[case], after[case]):
            compared.append(_whole(case, before[case], after[case], notes=[refusal], word="refused"))
            continue
        changes = [
            _change(view, contrast, shown, case.id, timed)
            for view in _VIEWS
            if case.id in timed and (contrast := evidence[case.id].whole.get(view)) is not None
        ]
        doubts = list(_doubts(timed[case.id])) if case.id in timed else []
        if case.id in timed and (shift := moved(evidence[case.id])) is not None:
            doubts.append(
                f"the plain loop moved {math.expm1(shift):+.1%} against the kernels: the machine is not as it was"
            )
        if case.id in timed and not changes:
            doubts.append("the frozen references of its time are other code: time not compared")
        compared.append(_judged(case, before[case], after[case], changes, doubts, untimed.get(case, ""), metrics))
    return compared


def same_machine(before: Stored, after: Stored) -> bool:
    """Return whether both ran on one kind of machine, so that what depends on it can be compared."""
    return before.result.hardware == after.result.hardware and before.result.host == after.result.host


def _refused(before: Stored, after: Stored) -> str:
    """Return why nothing of two records can be compared; nothing where it can."""
    ours, theirs = after.result, before.result
    if ours.identity == theirs.identity:
        return ""
    names = ("profile", "dataset")
    changes = [
        f"{n} {getattr(theirs, n)} -> {getattr(ours, n)}" for n in names if getattr(theirs, n) != getattr(ours, n)
    ]
    keys = sorted(ours.settings.keys() | theirs.settings.keys())
    changes += [
        f"{key} {theirs.settings.get(key, 'none')} -> {ours.settings.get(key, 'none')}"
        for key in keys
        if ours.settings.get(key) != theirs.settings.get(key)
    ]
    told = f" ({', '.join(changes[:4])}{', ...' if len(changes) > 4 else ''})" if changes else ""
    return f"another set-up, so another training{told}: nothing of it is compared"


def _untimed(before: Stored, after: Stored) -> str:
    """Return why the time of a case is not compared; nothing where it is."""
    if _refused(before, after):
        return "another set-up"
    if not same_machine(before, after):
        return "other machines: time and memory peaks are not compared"
    ours, theirs = after.result, before.result
    if ours.conditions != theirs.conditions:
        names = [one.conditions or "the machine's own links" for one in (theirs, ours)]
        return f"{names[0]} then and {names[1]} now: time not compared"
    if ours.oversubscribed or theirs.oversubscribed:
        return "ranks shared cores: time not compared"
    if not ours.samples or not theirs.samples:
        return "no processes of its time are stored in both: time not compared"
    return ""


def _processes(samples: Sequence[Samples]) -> tuple[Process, ...]:
    return tuple(observe(one, lambda seen: disturbance(seen.watched) if seen.watched else ()) for one in samples)


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
    half = chance.student(0.975, contrast.degrees) * contrast.error
    low, high = sorted(math.expm1(sign * contrast.loss + side) for side in (-half, half))
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


def _doubts(timed: Timed) -> Iterator[str]:
    """Yield why a run's processes of a case say little, by the rule of the gate."""
    for name, run in (("first", timed.level[0]), ("second", timed.new)):
        most = MOST_DISTURBED * len(run)
        unsettled, disturbed = sum(not one.settled for one in run), sum(bool(one.disturbed) for one in run)
        if unsettled > most:
            yield f"{unsettled} of {len(run)} processes of the {name} run did not settle in their warm-up"
        if disturbed > most:
            yield f"{disturbed} of {len(run)} processes of the {name} run were disturbed"


def _judged(
    case: Case,
    before: Stored,
    after: Stored,
    changes: Sequence[Change],
    doubts: Sequence[str],
    untimed: str,
    metrics: Sequence[Metric],
) -> Compared:
    worse, notes = list(_certified(before, after)), [untimed] if untimed else []
    better: list[str] = []
    if after.certificate is not None:
        differs = exact.compare(
            after.result, after.certificate, baseline=before.result, baseline_certificate=before.certificate
        )
        (notes if differs.versions else worse).extend(differs.changes)
    if same_machine(before, after):
        for finding in limits.judge(after.result, level=[before.result], metrics=metrics).findings:
            if finding.word in ("regressed", "improved"):
                told = notes if finding.advisory else worse if finding.word == "regressed" else better
                told.append(finding.sentence() + (", advisory" if finding.advisory else ""))
    elif after.certificate is not None:
        gained = timing.speedup(after.result, after.reference)
        worse += portable.compare(after.result, after.certificate, speedup=gained, others=[before]).speedup
    for change in changes:
        if change.shown and not doubts:
            (worse if change.worse else better).append(_sentence(change))
    notes += doubts
    return _whole(
        case,
        before,
        after,
        changes=changes,
        worse=worse,
        better=better,
        notes=notes,
        word=None if not doubts else "unsure",
    )


def _certified(before: Stored, after: Stored) -> Iterator[str]:
    if after.certificate is not None and not after.certificate.granted:
        yield f"not certified: {after.certificate.causes[0]}"
    elif after.certificate is None and before.certificate is not None:
        yield "it has no certificate any more"


def _sentence(change: Change) -> str:
    return (
        f"{change.view} {change.estimate:+.1%} (95 % interval {change.low:+.1%} to {change.high:+.1%}), "
        f"{change.processes[1]} processes against {change.processes[0]}"
    )


def _whole(
    case: Case,
    before: Stored,
    after: Stored,
    *,
    changes: Sequence[Change] = (),
    worse: Sequence[str] = (),
    better: Sequence[str] = (),
    notes: Sequence[str] = (),
    word: Word | None = None,
) -> Compared:
    found: Word = "worse" if worse else word or ("better" if better else "alike")
    return Compared(
        case=case,
        before=before,
        after=after,
        word=found,
        changes=tuple(changes),
        worse=tuple(worse),
        better=tuple(better),
        notes=tuple(notes),
    )
