"""The gate: what is worse than the stored run by more than its limit regresses, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.gate.limits import judge
from harness.plugins import Limit, Metric
from harness.registry import discover
from tests.made import ANY_SPEED, made_report, made_result


def _metric(*, better="lower", limit=None, timed=False, name="figure"):
    """Return a metric that a result holds as an extra figure of rank 0."""
    return Metric(
        name=name,
        title=name,
        unit="",
        better=better,
        across="one",
        value=lambda result, reference: result.lead.extra.get(name),
        show=lambda value: f"{value:g}",
        order=1,
        limit=limit,
        timed=timed,
    )


def _result(oversubscribed=False, **figures):
    return made_result("resnet18-ddp-1gpu-bs8", made_report(extra=figures), oversubscribed=oversubscribed)


def _word(metric, before, after, **facts):
    """Return the verdict on one figure against its stored one."""
    held = {} if before is None else {metric.name: before}
    holds = {} if after is None else {metric.name: after}
    verdict = judge(
        _result(**holds, **facts), None, baseline=_result(**held), baseline_reference=None, metrics=[metric]
    )
    assert [finding.word for finding in verdict.findings] in ([], [verdict.word])
    return verdict.word


# Figures are sums of halves, so that "exactly at the limit" is exact in floating point as well.
@pytest.mark.parametrize(
    ("better", "limit", "before", "after", "word"),
    [
        ("lower", Limit(relative=0.5), 8.0, 8.0, "passed"),
        ("lower", Limit(relative=0.5), 8.0, 12.0, "passed"),
        ("lower", Limit(relative=0.5), 8.0, 12.0001, "regressed"),
        ("lower", Limit(relative=0.5), 8.0, 4.0, "passed"),
        ("lower", Limit(relative=0.5), 8.0, 3.9999, "improved"),
        ("higher", Limit(relative=0.5), 8.0, 4.0, "passed"),
        ("higher", Limit(relative=0.5), 8.0, 3.9999, "regressed"),
        ("higher", Limit(relative=0.5), 8.0, 12.0, "passed"),
        ("higher", Limit(relative=0.5), 8.0, 12.0001, "improved"),
        ("higher", Limit(absolute=0.25), 0.75, 0.5, "passed"),
        ("higher", Limit(absolute=0.25), 0.75, 0.4999, "regressed"),
        ("lower", Limit(), 8.0, 8.0001, "regressed"),
        # The larger of the two limits counts, whichever that is.
        ("lower", Limit(relative=0.5, absolute=1.0), 8.0, 12.0, "passed"),
        ("lower", Limit(relative=0.125, absolute=4.0), 8.0, 12.0, "passed"),
        ("lower", Limit(relative=0.125, absolute=1.0), 8.0, 9.5, "regressed"),
        # A share of a baseline below zero is as wide as of one above it.
        ("lower", Limit(relative=0.5), -8.0, -4.0, "passed"),
        ("lower", Limit(relative=0.5), -8.0, -3.9999, "regressed"),
        ("lower", Limit(relative=0.5), 0.0, 0.0, "passed"),
        ("lower", Limit(relative=0.5), 0.0, 0.0001, "regressed"),
        ("lower", Limit(relative=0.5, absolute=0.25), 0.0, 0.25, "passed"),
    ],
)
def test_a_figure_is_held_to_its_limit(better, limit, before, after, word):
    assert _word(_metric(better=better, limit=limit), before, after) == word


@ANY_SPEED
@given(before=st.floats(0, 1e6), after=st.floats(0, 1e6), relative=st.floats(0, 1), absolute=st.floats(0, 1e6))
def test_better_higher_is_better_lower_mirrored(before, after, relative, absolute):
    limit = Limit(relative=relative, absolute=absolute)
    mirrored = {"regressed": "improved", "improved": "regressed", "passed": "passed"}
    assert (
        _word(_metric(better="higher", limit=limit), before, after)
        == mirrored[_word(_metric(better="lower", limit=limit), before, after)]
    )


def test_without_a_baseline_a_case_is_new():
    verdict = judge(_result(), None, baseline=None, baseline_reference=None, metrics=[_metric(limit=Limit())])
    assert (verdict.word, verdict.findings) == ("new", ())


def test_a_figure_that_cannot_be_measured_any_more_is_worse():
    metric = _metric(limit=Limit(relative=1.0))
    verdict = judge(_result(), None, baseline=_result(figure=7.5), baseline_reference=None, metrics=[metric])
    assert verdict.word == "regressed"
    assert verdict.findings[0].sentence() == "figure could not be measured; the baseline has 7.5"


def test_a_figure_the_baseline_lacks_is_not_judged():
    assert _word(_metric(limit=Limit()), None, 5.0) == "passed"


def test_a_figure_without_a_limit_is_not_judged():
    assert _word(_metric(limit=None), 1.0, 1000.0) == "passed"


def test_the_clock_does_not_judge_ranks_that_share_cores_but_the_rest_is_judged():
    timed, counted = _metric(limit=Limit(), timed=True), _metric(limit=Limit(), name="counted")
    shared = _result(oversubscribed=True, figure=9.0, counted=9.0)
    before = _result(figure=1.0, counted=1.0)
    verdict = judge(shared, None, baseline=before, baseline_reference=None, metrics=[timed, counted])
    assert [finding.metric.name for finding in verdict.findings] == ["counted"]
    assert verdict.word == "regressed"
    assert verdict.note == "timing not gated: ranks shared cores"
    assert _word(timed, 1.0, 9.0, oversubscribed=True) == "passed"


def test_one_regression_outweighs_every_improvement():
    metrics = [_metric(limit=Limit(), name=name) for name in ("better", "same", "worse")]
    after = _result(better=1.0, same=2.0, worse=3.0)
    before = _result(better=2.0, same=2.0, worse=2.0)
    verdict = judge(after, None, baseline=before, baseline_reference=None, metrics=metrics)
    assert [finding.word for finding in verdict.findings] == ["improved", "passed", "regressed"]
    assert verdict.word == "regressed"


def _timed_result(case_id, step_s):
    steps = (9.0, *[step_s] * 4)
    ranks = int(case_id.split("-")[2].removesuffix("gpu"))
    return made_result(case_id, *(made_report(rank, ranks, step_s=steps) for rank in range(ranks)))


def _judged(slower: float):
    """Return the suite's own findings by name on a case `slower` times as slow as the stored one."""
    case, reference = "resnet18-zero2-2gpu-bs8", _timed_result("resnet18-ddp-1gpu-bs8", 0.2)
    verdict = judge(
        _timed_result(case, 0.2 * slower),
        reference,
        baseline=_timed_result(case, 0.2),
        baseline_reference=reference,
        metrics=discover().metrics.values(),
    )
    return verdict.word, {finding.metric.name: finding for finding in verdict.findings}


def test_the_suites_own_limits_let_the_same_result_through():
    word, findings = _judged(1.0)
    assert word == "passed"
    assert {"step_time", "speedup", "peak_memory", "accuracy"} <= findings.keys()


def test_a_case_twice_as_slow_is_caught_and_told_in_numbers():
    word, findings = _judged(2.0)
    assert word == "regressed"
    assert findings["step_time"].word == findings["speedup"].word == "regressed"
    sentence = findings["step_time"].sentence()
    assert sentence.startswith("step_time regressed: 400.0 ms against 200.0 ms, +100.0% (limit ")
    assert findings["speedup"].sentence().startswith("speedup regressed: 1.00x against 2.00x, -50.0% (limit ")


def test_a_case_three_times_as_fast_is_an_improvement():
    assert _judged(1 / 3)[0] == "improved"


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (Limit(relative=0.5), "(limit 50%)"),
        (Limit(absolute=0.25), "(limit 0.25)"),
        (Limit(relative=0.5, absolute=0.25), "(limit 50% or 0.25)"),
    ],
)
def test_a_finding_tells_its_limit(limit, told):
    verdict = judge(
        _result(figure=3.0), None, baseline=_result(figure=1.0), baseline_reference=None, metrics=[_metric(limit=limit)]
    )
    assert verdict.findings[0].sentence() == f"figure regressed: 3 against 1, +200.0% {told}"
