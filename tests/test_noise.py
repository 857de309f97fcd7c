"""The noise of a case: what is stored of it, shrunk to its group; a prior where little is stored."""

from __future__ import annotations

import random
from statistics import fmean, median

import pytest

from harness.gate.noise import PRIORS, estimate
from harness.gate.observations import Observation

PRIOR = PRIORS["same work"]


def _runs(draw, *, runs=4, processes=5, process=0.02, run=0.0, rounds=40, single=0.1):
    """Return the processes of a case by run."""
    return [
        [
            Observation(
                mean=shift + draw.gauss(0, process) + draw.gauss(0, single / rounds**0.5),
                rounds=rounds,
                variance=single**2,
            )
            for _ in range(processes)
        ]
        for shift in (draw.gauss(0, run) for _ in range(runs))
    ]


def _estimate(stored, new=None):
    fresh = {case: [(new or {}).get(case, [])] for case in stored}
    return estimate("same work", stored, fresh, dict.fromkeys(stored, "group"))


def _many(seed=1, cases=40, **over):
    draw = random.Random(seed)
    return {f"case {n}": _runs(draw, **over) for n in range(cases)}


def test_nothing_stored_is_the_prior():
    noise = _estimate({"case": []})["case"]
    assert noise.process == pytest.approx(PRIOR.process**2)
    assert noise.run == pytest.approx(PRIOR.run**2)
    assert noise.degrees == noise.run_degrees == PRIOR.worth


def test_many_cases_tell_what_processes_and_runs_vary_by():
    noises = _estimate(_many(process=0.03, run=0.01, runs=12)).values()
    assert fmean(one.of_process(40) for one in noises) == pytest.approx(0.03**2 + 0.01 / 40, rel=0.1)
    assert next(iter(noises)).run == pytest.approx(0.01**2, rel=0.35)


def test_a_longer_process_is_trusted_more_but_never_wholly():
    noise = _estimate(_many(process=0.02, single=0.2))["case 0"]
    assert noise.of_process(10) - noise.of_process(1000) == pytest.approx(0.2**2 * (1 / 10 - 1 / 1000), rel=0.35)
    assert noise.of_process(10**9) > 0.01**2


def test_a_wild_case_is_known_for_it_and_one_seen_little_is_taken_for_its_group():
    cases = _many(cases=30, process=0.02)
    draw = random.Random(2)
    cases |= {"wild": _runs(draw, process=0.08, runs=10), "barely seen": _runs(draw, process=0.08, runs=1, processes=2)}
    noises = _estimate(cases)
    usual = median(one.of_process(40) for one in noises.values())
    assert noises["wild"].of_process(40) > 6 * usual
    assert noises["barely seen"].of_process(40) < 6 * usual
    assert noises["barely seen"].degrees < noises["wild"].degrees


def test_a_change_in_the_new_run_is_not_taken_for_noise():
    stored = _many(runs=3)
    new = {
        case: [Observation(one.mean + 0.5, one.rounds, one.variance) for one in runs[0]]
        for case, runs in stored.items()
    }
    before, after = _estimate(stored)["case 0"], _estimate(stored, new)["case 0"]
    assert after.run == pytest.approx(before.run, rel=0.3)
    assert after.of_process(40) == pytest.approx(before.of_process(40), rel=0.3)


def test_processes_that_are_all_alike_are_not_believed_to_have_no_noise():
    same = [[Observation(1.0, 40, 0.01)] * 5] * 3
    noise = _estimate({"case": same})["case"]
    assert noise.of_process(40) >= 0.01 / 40
    assert noise.run > 0


def test_many_cases_of_few_runs_do_not_make_the_runs_well_known():
    assert _estimate(_many(runs=2))["case 0"].run_degrees == PRIOR.worth + 1
