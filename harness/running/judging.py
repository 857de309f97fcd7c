"""The verdict on a case: what every layer of the gate says of it, folded into one word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from harness.anatomy.telemetry import disturbance
from harness.certificate import Certificate
from harness.gate import portable
from harness.gate.exact import compare
from harness.gate.limits import Verdict, judge, with_exact, with_portable, with_time
from harness.gate.timing import TimeVerdict
from harness.plugins import Metric
from harness.results import Result
from harness.stored.baselines import Baseline


def judge_case(
    result: Result,
    certificate: Certificate,
    baseline: Baseline,
    *,
    metrics: Iterable[Metric],
    time: TimeVerdict | None,
    speedup: float | None,
) -> Verdict:
    """Return the verdict on a result; whether it is certified and its memory is what is predicted is not looked at.

    Args:
        result: of the case.
        certificate: of the case.
        baseline: what it is held to.
        metrics: all of them.
        time: the verdict of the time layer; None where there is none.
        speedup: by processes of the time layer; None without.
    """
    level = [stored.result for stored in baseline.level]
    verdict = judge(result, level=level, metrics=metrics)
    if baseline.newest is not None:
        stored = baseline.newest
        exact = compare(result, certificate, baseline=stored.result, baseline_certificate=stored.certificate)
        verdict = with_exact(verdict, exact)
    elif baseline.incomparable:
        verdict = replace(verdict, word="incomparable")
    disturbed = disturbance(result.watched) if result.watched else ()
    found = portable.compare(result, certificate, speedup=speedup, others=baseline.others, disturbed=disturbed)
    verdict = with_portable(verdict, found.causes)
    if result.oversubscribed:
        return replace(verdict, note="timing not gated: ranks shared cores")
    if time is None and level:
        why = "the stored runs hold no samples of its time: accept a run of your own with --benchmark-save"
        time = TimeVerdict(word="unresolved", reasons=(why,))
    return verdict if time is None else with_time(verdict, time)
