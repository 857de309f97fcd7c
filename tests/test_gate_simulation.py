"""The gate keeps its rates in suites whose truth is known, and gates with a fault do not: the same test tells.

The full figures are those of `harness.proof.rates.figures`; here are as many suites as a minute has time for.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, variance
from unittest.mock import patch

import pytest

from harness.gate.contrasts import gather
from harness.gate.noise import Noise
from harness.gate.policy import FALSE_ALARMS_OF_CASE, named
from harness.gate.screening import suspects_of
from harness.gate.timing import TimeVerdict, _p_value, judge_time, screen
from harness.proof.rates import CASES, Count, pairs, rates
from harness.proof.simulator import BUSY, ELSEWHERE, QUIET, SHARED, Suite, gate

NIGHTLY = named("nightly")


def _rates(rule=gate, *, policy="nightly", world=QUIET, stored_runs=3, paired=False, suites=0, planted=0, seed=5):
    return rates(
        named(policy),
        world,
        stored_runs=stored_runs,
        paired=paired,
        suites=suites,
        planted=planted,
        seed=seed,
        rule=rule,
    )


def _cries_wolf(found):
    """Return whether suites without a change were red more often than the gate promises, beyond chance."""
    return found.reds.bounds(0.99)[0] > FALSE_ALARMS_OF_CASE * CASES


def _finds(found, effect, promised):
    """Return whether a slowdown was found as often as promised, chance apart."""
    return found.power[effect].bounds(0.99)[1] > promised


@pytest.mark.parametrize("world", [QUIET, BUSY, SHARED, ELSEWHERE], ids=lambda world: world.name)
@pytest.mark.parametrize("stored_runs", [1, 3])
def test_unchanged_suites_are_not_red(world, stored_runs):
    found = _rates(world=world, stored_runs=stored_runs, suites=15)
    assert not _cries_wolf(found)
    assert found.false_alarms.bounds()[1] < 0.01


def test_a_gate_that_takes_another_machine_speed_for_the_code_cries_wolf(monkeypatch):
    monkeypatch.setattr("harness.gate.doubts._with_machine", lambda shift, evidence: None)
    assert _cries_wolf(_rates(world=ELSEWHERE, suites=15))


def test_a_slower_model_is_found_beside_the_accepted_code_whatever_the_speed_of_the_machine():
    found = _rates(world=ELSEWHERE, paired=True, planted=12).models
    assert (found.of, found.bounds(0.99)[1] > 0.9) == (12, True)
    assert found.events > _rates(world=ELSEWHERE, planted=12).models.events


@pytest.mark.parametrize("world", [QUIET, BUSY, SHARED, ELSEWHERE], ids=lambda world: world.name)
def test_two_stored_runs_of_the_same_code_are_alike(world):
    found = pairs(world, suites=40, planted=0, seed=5)
    assert found.reds.of == 40
    assert found.reds.bounds(0.99)[0] < 0.01
    assert found.false_changes.bounds()[1] < 0.01


def test_comparing_finds_what_is_large_and_a_comparison_without_its_bounds_would_cry_wolf(monkeypatch):
    assert pairs(QUIET, suites=0, planted=12, seed=5).power[0.10].bounds(0.99)[1] > 0.9
    monkeypatch.setattr("harness.gate.changes.FALSE_ALARMS", 3.0)
    monkeypatch.setattr("harness.gate.changes.theta", lambda view, timed: 0.0)
    assert pairs(QUIET, suites=20, planted=0, seed=5).reds.bounds(0.99)[0] > 0.01


@pytest.mark.parametrize("policy", ["pr", "release"])
def test_other_policies_do_not_cry_wolf(policy):
    assert not _cries_wolf(_rates(policy=policy, suites=15))


def test_beside_the_accepted_code_the_gate_does_not_cry_wolf_and_finds_more():
    assert not _cries_wolf(_rates(stored_runs=1, paired=True, suites=15))
    alone, paired = (_rates(stored_runs=1, paired=paired, planted=20).power[0.05] for paired in (False, True))
    assert paired.events > alone.events


def test_a_creep_is_found_that_no_run_shows_alone(monkeypatch):
    judged = _rates(stored_runs=10, planted=15).crept
    monkeypatch.setattr("harness.gate.contrasts.CREEP_RUNS", 99)
    blind = _rates(stored_runs=10, planted=15).crept
    assert judged.of == blind.of == 15
    assert judged.events >= blind.events + 3


def test_beside_the_code_that_began_the_level_a_creep_is_found():
    alone, paired = (_rates(stored_runs=10, paired=paired, planted=12).crept for paired in (False, True))
    assert paired.of == 12 and paired.events >= alone.events


def test_planted_slowdowns_are_found():
    found = _rates(stored_runs=10, planted=25)
    assert _finds(found, 0.10, 0.999) and _finds(found, 0.05, 0.99) and _finds(found, 0.03, 0.60)
    assert found.power[0.05].rate > 0.9
    assert found.power[0.02].rate < 0.5


def test_intervals_cover_the_truth_as_often_as_they_say():
    found = _rates(world=QUIET, stored_runs=10, suites=15)
    for view, held in found.coverage.items():
        low, high = held.bounds(0.99)
        assert low < 0.97 and high > 0.93, view


def test_the_smallest_effect_that_is_told_is_the_one_that_is_seen():
    found = _rates(stored_runs=10, suites=5)
    planted = dict.fromkeys((f"case {number}" for number in range(1, 20, 6)), math.log1p(1.15 * found.mde))
    seen = Count()
    for seed in range(25):
        suite = _suite(seed, planted, stored_runs=10)
        verdicts = gate(suite)
        seen += Count(sum(verdicts[case].word == "regressed" for case in planted), len(planted))
    assert seen.rate > 0.95


def _suite(seed, planted=None, *, world=QUIET, stored_runs=3, policy=NIGHTLY):
    import numpy as np

    slowed = {f"case {number}": 0.0 for number in range(20)} | (planted or {})
    random = np.random.default_rng([9, seed])
    return Suite(random=random, world=world, policy=policy, slowed=slowed, stored_runs=stored_runs, stored_processes=5)


def test_a_suite_is_the_same_for_the_same_seed():
    assert _suite(1).cases == _suite(1).cases != _suite(2).cases


def _without_confirmation(suite):
    suspects = {one.case for one in screen(suite.cases).suspects if one.worse}
    return {case: TimeVerdict(word="regressed" if case in suspects else "passed") for case in suite.cases}


def _reusing_the_screen(suite):
    """Take the screen's processes for a confirmation of their own finding, as if they were others."""
    suspects = set(screen(suite.cases).confirm)
    for case in suspects:
        own = suite.cases[case]
        suite.cases[case] = replace(own, new=own.new + tuple(replace(one, confirms=True) for one in own.new))
    with patch("harness.gate.timing.correlation", return_value=0.0):
        return judge_time(suite.cases, suite.policy)


def _pooling_steps(suite):
    """Test all rounds of a run against all stored ones as if each were an observation of its own (Welch)."""

    def pooled(processes):
        seen = [process.views["same work"] for process in processes]
        count = sum(one.rounds for one in seen)
        mean = sum(one.rounds * one.mean for one in seen) / count
        squares = sum((one.rounds - 1) * one.variance + one.rounds * (one.mean - mean) ** 2 for one in seen)
        return mean, squares / (count - 1) / count

    def regressed(timed, confirms):
        new, error = pooled([one for one in timed.new if one.confirms is confirms])
        old, stored = pooled([one for run in timed.level for one in run])
        return new - old > math.log1p(0.02) and new - old > 2.326 * math.sqrt(error + stored)

    suspects = [case for case, timed in suite.cases.items() if regressed(timed, False)]
    suite.measure(dict.fromkeys(suspects, suite.policy.confirm_processes))
    return {
        case: TimeVerdict(word="regressed" if case in suspects and regressed(timed, True) else "passed")
        for case, timed in suite.cases.items()
    }


def _in_a_fixed_order(suite):
    """Give the case another slot of the round than it had, in the screen and in the confirmation."""
    favour = {case: 0.018 * (1 if number % 2 else -1) for number, case in enumerate(suite.slowed)}
    return gate(_changed(suite, favour))


def _changed(suite, changes):
    suite.slowed = changes
    for case, change in changes.items():
        own = suite.cases[case]
        suite.cases[case] = replace(own, new=tuple(_shifted(process, change) for process in own.new))
    return suite


def _shifted(process, change):
    views = {
        view: seen if view == "control" else replace(seen, mean=seen.mean + change)
        for view, seen in process.views.items()
    }
    return replace(process, views=views)


def _divided_by_the_median(suite):
    """Take from every case what the suite changed by on the whole."""
    changes = [
        fmean(one.views["same work"].mean for one in timed.new)
        - fmean(one.views["same work"].mean for run in timed.level for one in run)
        for timed in suite.cases.values()
    ]
    suite.slowed = {case: change - median(changes) for case, change in suite.slowed.items()}
    for case, own in suite.cases.items():
        suite.cases[case] = replace(own, new=tuple(_shifted(one, -median(changes)) for one in own.new))
    return gate(suite)


@pytest.mark.parametrize(
    ("rule", "world", "stored_runs", "suites"),
    [
        (_without_confirmation, QUIET, 10, 20),
        (_reusing_the_screen, SHARED, 2, 150),
        (_pooling_steps, SHARED, 10, 20),
        (_in_a_fixed_order, QUIET, 10, 30),
    ],
)
def test_gates_with_a_fault_cry_wolf(rule, world, stored_runs, suites):
    assert _cries_wolf(_rates(rule, world=world, stored_runs=stored_runs, suites=suites))


def test_a_gate_that_knows_the_noise_of_steps_alone_cries_wolf(monkeypatch):
    monkeypatch.setattr(Noise, "of_process", lambda noise, rounds: noise.rounds / rounds)
    assert _cries_wolf(_rates(world=SHARED, stored_runs=1, suites=30))


def test_the_confirmation_of_an_unchanged_suspect_is_judged_given_that_it_was_suspected():
    # Against a young level: what five stored processes happen to be is in both, and most of the noise of either.
    def probable(share):
        p_values = [p for seed in range(40) for p in _p_values(seed)]
        return Count(sum(p < share for p in p_values), len(p_values))

    assert probable(0.05).bounds(0.99)[0] <= 0.05
    with patch("harness.gate.timing.correlation", return_value=0.0):
        assert probable(0.05).bounds(0.99)[0] > 0.2


def _p_values(seed):
    """Return those of the confirmed suspects of a suite without a change."""
    unchanged = dict.fromkeys((f"case {number}" for number in range(CASES)), 0.0)
    suite = _suite(seed, unchanged, world=SHARED, stored_runs=1, policy=named("release"))
    suspects = [one for one in suspects_of(suite.cases, gather(suite.cases)).suspects if one.worse]
    suite.measure({one.case: suite.policy.confirm_processes for one in suspects})
    evidence = gather(suite.cases)
    ratios = [one for one in suspects if one.view in ("same work", "machine")]
    return [_p_value(one, suite.cases[one.case], evidence[one.case], 1) for one in ratios]


@pytest.mark.parametrize(("rule", "finds"), [(gate, True), (_divided_by_the_median, False)])
def test_a_change_that_hits_every_case_is_found_unless_the_median_takes_it_away(rule, finds):
    everywhere = {f"case {number}": math.log1p(0.08) for number in range(20)}
    found = [rule(_suite(seed, everywhere)) for seed in range(5)]
    red = Count(sum(verdict.word == "regressed" for one in found for verdict in one.values()), 100)
    assert red.rate > 0.9 if finds else red.rate < 0.1


def test_exact_bounds_hold_their_rate():
    low, high = Count(0, 300).bounds()
    assert (low, high) == (0.0, pytest.approx(1 - 0.05 ** (1 / 300)))
    assert Count(5, 5).bounds() == (pytest.approx(0.05 ** (1 / 5)), 1.0)
    assert (Count(1, 2) + Count(0, 2)).rate == 0.25


def test_the_quiet_world_is_what_the_recorded_runs_are():
    file = Path(__file__).parent / "data" / "gate_runs.json"
    processes = [one for one in json.loads(file.read_text(encoding="utf-8"))["processes"] if one["extra"] == 0]
    assert len(processes) == 47
    logs = [_logs(one) for one in processes]
    within = median(variance(same) for same, _ in logs)
    assert QUIET.rounds == pytest.approx(math.sqrt(within), rel=0.1)
    rounds = fmean(variance(same) / len(same) for same, _ in logs)
    between = variance([fmean(same) for same, _ in logs])
    assert QUIET.process == pytest.approx(math.sqrt(between - rounds), abs=0.003)
    kernels = variance([fmean(of) for _, of in logs]) - fmean(variance(of) / len(of) for _, of in logs)
    assert QUIET.kernels == pytest.approx(math.sqrt(kernels), abs=0.003)


def _logs(process):
    """Return each round of a recorded process: log(step / same work), log(same work / kernels); without the warm-up."""
    step, twin, convolution, product = (process["wall_us"][kind][6:] for kind in ("step", "twin", "rconv", "rmm"))
    same = [math.log(a / b) for a, b in zip(step, twin, strict=True)]
    kernels = [math.log(b / math.sqrt(c * d)) for b, c, d in zip(twin, convolution, product, strict=True)]
    return same, kernels
