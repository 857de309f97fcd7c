"""The tight and the accuracy layer: what is worse than the stored runs beyond its limit regresses, nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.gate.limits import OPEN, WORSE, Verdict, judge, with_portable, with_time, worst
from harness.gate.timing import TimeVerdict
from harness.plugins import Limit, Metric
from harness.registry import discover
from harness.results import EpochReport, Memory, Repeat
from tests.made import ANY_SPEED, GIB, made_report, made_result


def _metric(*, better="lower", limit=None, name="figure", layer="tight", limits_on=None):
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
        layer=layer,
        limit=limit,
        limits_on=limits_on or {},
    )


def _result(*, device="cpu", **figures):
    return made_result("resnet18-ddp-1gpu-bs8", made_report(extra=figures, device=device))


def _word(metric, before, after, **facts):
    """Return the verdict on one figure against its stored one."""
    held = {} if before is None else {metric.name: before}
    holds = {} if after is None else {metric.name: after}
    verdict = judge(_result(**holds, **facts), level=[_result(**held, **facts)], metrics=[metric])
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
    verdict = judge(_result(), level=(), metrics=[_metric(limit=Limit())])
    assert (verdict.word, verdict.findings) == ("new", ())


def test_a_figure_that_cannot_be_measured_any_more_is_worse():
    metric = _metric(limit=Limit(relative=1.0))
    verdict = judge(_result(), level=[_result(figure=7.5)], metrics=[metric])
    assert verdict.word == "regressed"
    assert verdict.findings[0].sentence() == "figure could not be measured; the baseline has 7.5"


def test_a_figure_the_baseline_lacks_is_not_judged():
    assert _word(_metric(limit=Limit()), None, 5.0) == "passed"


def test_a_figure_without_a_limit_is_not_judged():
    assert _word(_metric(limit=None), 1.0, 1000.0) == "passed"


@pytest.mark.parametrize("layer", [None, "exact", "time"])
def test_a_figure_of_another_layer_is_judged_elsewhere(layer):
    assert _word(_metric(limit=Limit(), layer=layer), 1.0, 1000.0) == "passed"


def test_a_figure_is_held_to_the_newest_run_of_its_level():
    metric = _metric(limit=Limit(relative=0.5))
    level = [_result(figure=8.0), _result(figure=1.0), _result(figure=100.0)]
    (finding,) = judge(_result(figure=12.0), level=level, metrics=[metric]).findings
    assert (finding.word, finding.baseline) == ("passed", 8.0)


def test_a_kind_of_device_may_have_a_limit_of_its_own():
    metric = _metric(limit=Limit(relative=0.5), limits_on={"cpu": Limit(relative=4.0)})
    assert _word(metric, 8.0, 40.0) == "passed"
    assert _word(metric, 8.0, 40.0, device="cuda:0") == "regressed"


def test_what_is_advisory_is_said_and_fails_nothing():
    advised = _metric(limit=Limit(relative=0.5, advisory=True), name="advised")
    held = _metric(limit=Limit(relative=0.5), name="held")
    after, before = _result(advised=9.0, held=1.0), _result(advised=1.0, held=1.0)
    verdict = judge(after, level=[before], metrics=[advised, held])
    assert verdict.word == "passed"
    assert [(finding.word, finding.advisory) for finding in verdict.findings] == [
        ("regressed", True),
        ("passed", False),
    ]
    assert verdict.findings[0].sentence() == "advised regressed: 9 against 1, +800.0% (limit 50%)"
    # Nor does what fell far hide that another figure rose.
    better = judge(_result(advised=0.1, held=9.0), level=[before], metrics=[advised, held])
    assert better.word == "regressed"


def test_one_regression_outweighs_every_improvement():
    metrics = [_metric(limit=Limit(), name=name) for name in ("better", "same", "worse")]
    after = _result(better=1.0, same=2.0, worse=3.0)
    before = _result(better=2.0, same=2.0, worse=2.0)
    verdict = judge(after, level=[before], metrics=metrics)
    assert [finding.word for finding in verdict.findings] == ["improved", "passed", "regressed"]
    assert verdict.word == "regressed"


def _own(result, before):
    """Return the verdict by the suite's own limits, and the findings by the name of their metric."""
    verdict = judge(result, level=[before], metrics=discover().metrics.values())
    return verdict, {finding.metric.name: finding for finding in verdict.findings}


def test_the_suites_own_limits_let_the_same_result_through():
    verdict, findings = _own(made_result(), made_result())
    assert verdict.word == "passed"
    assert findings.keys() == {"peak_memory", "accuracy"}


def test_no_limit_is_put_on_single_times_however_slow():
    slow = made_result("resnet18-ddp-1gpu-bs8", made_report(step_s=(50.0, 20.0, 20.0, 20.0, 20.0)))
    assert _own(slow, made_result())[0].word == "passed"


def _holding(mib, device):
    held = round(GIB / 2 + mib * 2**20)
    memory = Memory(peak_allocated_bytes=held) if device != "cpu" else Memory(peak_resident_bytes=held)
    return made_result("resnet18-ddp-1gpu-bs8", made_report(memory=memory, device=device))


@pytest.mark.parametrize(
    ("device", "more_mib", "word", "found"),
    [
        # Of half a GiB the limit is .5 %, which is 2.56 MiB.
        ("cuda:0", 2.5, "passed", "passed"),
        ("cuda:0", 2.7, "regressed", "regressed"),
        ("cuda:0", -2.7, "improved", "improved"),
        # The resident set of a process on the CPU moves by itself.
        ("cpu", 100, "passed", "passed"),
        ("cpu", 110, "passed", "regressed"),
    ],
)
def test_allocated_memory_is_held_tightly_and_the_resident_set_is_advisory(device, more_mib, word, found):
    verdict, findings = _own(_holding(more_mib, device), _holding(0, device))
    assert (verdict.word, findings["peak_memory"].word) == (word, found)
    assert findings["peak_memory"].advisory == (device == "cpu")


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (Limit(relative=0.5), "(limit 50%)"),
        (Limit(absolute=0.25), "(limit 0.25)"),
        (Limit(relative=0.5, absolute=0.25), "(limit 50% or 0.25)"),
    ],
)
def test_a_finding_tells_its_limit(limit, told):
    verdict = judge(_result(figure=3.0), level=[_result(figure=1.0)], metrics=[_metric(limit=limit)])
    assert verdict.findings[0].sentence() == f"figure regressed: 3 against 1, +200.0% {told}"


ACCURACY = discover().metrics["accuracy"]


def _scored(*scores, name="accuracy", **over):
    """Return a result whose last epoch scored this with the seeds 0, 1, ..."""
    told = ({} if score is None else {name: score} for score in scores)
    first, *others = ((EpochReport(seconds=1.0, steps=2, scores=of_seed),) for of_seed in told)
    repeats = tuple(Repeat(seed=seed, epochs=epochs) for seed, epochs in enumerate(others, 1))
    return made_result("resnet18-ddp-1gpu-bs8", made_report(epochs=first), repeats=repeats, **over)


BEFORE = (0.90, 0.80, 0.85, 0.70)


@pytest.mark.parametrize(
    ("drops", "word"),
    [
        # More than the margin of .02, and more than the seeds scatter.
        ((0.10, 0.11, 0.09, 0.10), "regressed"),
        ((-0.10, -0.11, -0.09, -0.10), "improved"),
        ((0.001, -0.001, 0.002, 0.0), "passed"),
        # Worse beyond doubt, by less than matters.
        ((0.010, 0.011, 0.009, 0.010), "passed"),
        ((-0.010, -0.011, -0.009, -0.010), "passed"),
        # Even on average, but so scattered that a loss of the margin cannot be excluded.
        ((0.05, -0.05, 0.04, -0.04), "unresolved"),
        # By more than the margin, but it may be chance.
        ((0.15, -0.05, 0.06, -0.04), "unresolved"),
        # Equal drops have no scatter to test with; what they say is plain.
        ((0.0, 0.0, 0.0, 0.0), "passed"),
        ((0.01, 0.01, 0.01, 0.01), "passed"),
        ((0.05, 0.05, 0.05, 0.05), "regressed"),
        ((-0.05, -0.05, -0.05, -0.05), "improved"),
    ],
)
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_accuracy_over_paired_seeds_may_not_be_inferior_by_the_margin(drops, word, better):
    sign = 1 if better == "higher" else -1
    metric = replace(ACCURACY, better=better, value=lambda result, reference: result.last_scores("accuracy")[0])
    before = _scored(*(sign * score for score in BEFORE))
    after = _scored(*(sign * (score - drop) for score, drop in zip(BEFORE, drops, strict=True)))
    verdict = judge(after, level=[before], metrics=[metric])
    assert verdict.word == word
    assert verdict.findings[0].rule == "margin 2.0 % over 4 paired seeds"


def test_a_finding_over_seeds_tells_their_means():
    verdict = judge(_scored(0.5, 0.7), level=[_scored(0.8, 0.9)], metrics=[ACCURACY])
    (finding,) = verdict.findings
    assert (finding.baseline, finding.measured) == (pytest.approx(0.85), pytest.approx(0.6))


def test_seeds_that_one_run_lacks_are_no_pairs():
    """One pair has no scatter: it is held to the limit, as a run with a single seed is."""
    for before, after in (((0.9,), (0.885, 0.1, 0.1)), ((0.9, 0.9), (0.885,)), ((0.9, None), (0.885, 0.1))):
        verdict = judge(_scored(*after), level=[_scored(*before)], metrics=[ACCURACY])
        assert (verdict.word, verdict.findings[0].rule) == ("passed", "limit 2.0 %")
    assert judge(_scored(0.875, 0.9), level=[_scored(0.9)], metrics=[ACCURACY]).word == "regressed"


def test_where_runs_were_equal_to_the_last_digit_any_drop_is_a_regression():
    level = [_scored(0.9), _scored(0.9)]
    verdict = judge(_scored(0.899999), level=level, metrics=[ACCURACY])
    assert verdict.word == "regressed"
    assert verdict.findings[0].sentence().endswith("(runs of this case are equal to the last digit)")
    assert judge(_scored(0.9), level=level, metrics=[ACCURACY]).word == "passed"
    assert judge(_scored(0.900001), level=level, metrics=[ACCURACY]).word == "improved"


@pytest.mark.parametrize(
    "level",
    [
        [_scored(0.9)],
        [_scored(0.9), _scored(0.9000001)],
        [_scored(0.9), replace(_scored(0.9), ranks=(replace(_scored(0.9).lead, loss=(4.0, 2.0, 1.0, 0.5, 0.26)),))],
        [_scored(0.9, versions={"torch": "2.14.0"})] * 2,
        [_scored(0.9), _scored(0.9, versions={"torch": "2.14.0"})],
        [_scored(0.9, hardware="other")] * 2,
        [_scored(0.9, host="other")] * 2,
    ],
    ids=["one run", "other score", "other loss", "other version", "versions differ", "other hardware", "other host"],
)
def test_where_they_were_not_a_small_drop_is_let_through(level):
    verdict = judge(_scored(0.899), level=level, metrics=[ACCURACY])
    assert (verdict.word, verdict.findings[0].rule) == ("passed", "limit 2.0 %")


def test_a_tight_figure_keeps_its_limit_where_runs_are_equal():
    verdict = judge(_result(figure=1.4), level=[_result(figure=1.0)] * 2, metrics=[_metric(limit=Limit(relative=0.5))])
    assert verdict.word == "passed"


def test_the_worst_word_is_the_verdict_and_what_is_new_in_one_layer_alone_is_not_new():
    order = [*WORSE, "incomparable", "unresolved", "improved", "passed", "new", "vanished"]
    for place, word in enumerate(order):
        assert worst(reversed(order[place:])) == word
    assert not {"improved", "passed"} & {*WORSE, *OPEN}
    assert {*order} == {*WORSE, *OPEN, "improved", "passed"}


@pytest.mark.parametrize(
    ("figures", "time", "word"),
    [
        ("passed", "regressed", "regressed"),
        ("regressed", "improved", "regressed"),
        ("improved", "unresolved", "unresolved"),
        ("passed", "improved", "improved"),
        ("passed", "passed", "passed"),
        ("passed", "new", "passed"),
        ("new", "new", "new"),
    ],
)
def test_the_time_has_a_say_in_the_verdict(figures, time, word):
    judged = TimeVerdict(word=time)
    assert with_time(Verdict(word=figures), judged) == Verdict(word=word, time=judged)


def test_what_another_machine_knows_better_is_a_regression_of_a_new_case_too():
    assert with_portable(Verdict(word="new"), ()) == Verdict(word="new")
    found = with_portable(Verdict(word="new"), ["parameters: 9 -> 10"])
    assert (found.word, found.portable) == ("regressed", ("parameters: 9 -> 10",))
