"""The self-test: white noise is found white, noise that drifts or sticks is not, and then time is not gated."""

from __future__ import annotations

import random

import pytest

from harness.gate.observations import Observation, Process
from harness.gate.policy import named
from harness.gate.selftest import selftest
from harness.report.selftest import render
from harness.running import selftest as kept

POLICY = named("pr")
NOISE = 0.02


def _process(mean):
    seen = Observation(mean=mean, rounds=20, variance=0.01)
    return Process(views={"same work": seen, "machine": seen, "wall": seen, "control": Observation(0.0, 20, 0.01)})


def _tested(seed, *, stick=0.0, drift=0.0, cases=8, processes=10, noise=NOISE):
    """Return the self-test of made cases: each process follows the one before by `stick`, and all rise by `drift`."""
    draw = random.Random(seed)
    made = {}
    for case in range(cases):
        state, means = draw.gauss(0, noise), []
        for number in range(processes):
            means.append(state + drift * number / processes)
            state = stick * state + (1 - stick**2) ** 0.5 * draw.gauss(0, noise)
        made[f"case {case}"] = [_process(mean) for mean in means]
    return selftest(made, dict.fromkeys(made, "alike"), POLICY)


BAD = _tested(0, drift=0.5)


def test_white_noise_is_found_white_and_unchanged():
    found = [_tested(seed) for seed in range(200)]
    assert sum(one.word != "white" for one in found) <= 2
    assert sum(len(one.alarms) for one in found) <= 1


@pytest.mark.parametrize("fault", [{"stick": 0.6, "cases": 16}, {"drift": 0.05}])
def test_noise_that_sticks_or_drifts_is_found(fault):
    assert sum(_tested(seed, **fault).word == "not white" for seed in range(40)) >= 36


def test_a_change_between_the_halves_is_an_alarm():
    """As if every second process were slower: the comparison with itself can fail."""
    made = {"one": [_process(0.2 * (number % 2) + 0.001 * (number % 3)) for number in range(20)]}
    assert selftest(made, {"one": "alike"}, POLICY).alarms == ("one",)


def test_the_scatter_is_that_of_the_processes():
    scatters = [one for seed in range(20) for one in _tested(seed).cases.values()]
    assert sum(one.between for one in scatters) / len(scatters) == pytest.approx(NOISE, rel=0.1)
    assert all(one.rounds == pytest.approx(0.1) for one in scatters)


def test_less_noise_sees_smaller_slowdowns():
    def sees(noise):
        effects = [one.verdict.effects[0] for one in _tested(1, noise=noise).cases.values()]
        assert {effect.view for effect in effects} == {"same work"}
        return sum(effect.mde for effect in effects) / len(effects)

    assert sees(0.1) > sees(0.02)


def test_too_few_processes_are_no_self_test():
    assert (_tested(0, processes=9).cases, _tested(0, processes=9).word) == ({}, "cannot tell")
    few = _tested(0, stick=0.9, cases=3)
    assert (len(few.cases), few.word) == (3, "cannot tell")
    assert "cannot tell" in "\n".join(render(few, policy=POLICY))


def test_a_machine_that_is_not_white_forbids_until_it_is(tmp_path):
    assert kept.forbids(tmp_path, "abc") == ""
    kept.keep(BAD, tmp_path, "abc")
    assert "not independent" in kept.forbids(tmp_path, "abc")
    assert kept.forbids(tmp_path, "of another machine") == ""
    kept.keep(_tested(0, cases=2), tmp_path, "abc")
    assert kept.forbids(tmp_path, "abc"), "what cannot tell takes nothing back"
    kept.keep(_tested(0), tmp_path, "abc")
    assert kept.forbids(tmp_path, "abc") == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_a_damaged_finding_is_none(tmp_path, text):
    kept.keep(BAD, tmp_path, "abc")
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert kept.forbids(tmp_path, "abc") == ""


def test_the_table_fits_a_terminal_and_says_what_follows():
    lines = list(render(_tested(3, stick=0.9, processes=16), policy=POLICY))
    assert max(map(len, lines)) <= 100
    assert "NOT WHITE" in "\n".join(lines)
    assert "NOT" not in "\n".join(render(_tested(3), policy=POLICY))
