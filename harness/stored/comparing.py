"""Two stored runs beside each other, case by case, by the rules and the noise of the gate. Pure.

What depends on the machine is compared on one kind of machine alone; time by what `gate.changes` tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.anatomy.telemetry import observed
from harness.case import Case
from harness.gate import exact, limits, portable
from harness.gate.changes import Change, changes_of
from harness.gate.contrasts import Timed
from harness.gate.noise import group_of
from harness.gate.observations import Process
from harness.metrics import timing
from harness.plugins import Metric
from harness.records.samples import Samples
from harness.stored.store import Stored

Word = Literal["worse", "better", "alike", "unsure", "refused"]


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
            group=group_of(case),
            base=base_of[case].id,
        )
        for case in both
        if case not in untimed
    }
    times = changes_of(timed)
    compared = []
    for case in both:
        if refusal := _refused(before[case], after[case]):
            compared.append(_whole(case, before[case], after[case], notes=[refusal], word="refused"))
            continue
        changes, doubts = times.get(case.id, ((), ()))
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
    return tuple(map(observed, samples))


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
