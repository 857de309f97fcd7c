"""Cases of one run held to each other by their processes: told apart where they differ, seldom where they do not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from harness.gate import chance
from harness.gate.observations import Observation, Process
from harness.gate.ranking import slower, timings
from harness.report.answer import candidates
from tests.made import made_certificate
from tests.made_runs import REGISTRY, made_stored

CODE = {"plain": "p", "machine": "m"}


def _processes(draw, *, work=0.0, kernels=1.0, count=5, process=0.01, code=CODE):
    """Return processes of a case whose log ratio to its plain loop is `work`, and that one's to the kernels another."""
    made = []
    for _ in range(count):
        own, loop = work + draw.gauss(0, process), kernels + draw.gauss(0, 0.02)
        means = {"same work": own, "machine": own + loop}
        views = {view: Observation(mean, 30, 0.0004) for view, mean in means.items()}
        made.append(Process(views=views, references=code))
    return made


def _timings(cases, **loops):
    names = dict.fromkeys(cases, "loop")
    return timings(cases, groups=dict.fromkeys(cases, "group"), loops=names | loops)


def _differ(draw, by, **over):
    found = _timings({"a": _processes(draw), "b": _processes(draw, work=by, **over)})
    return slower(found["b"], found["a"])


def test_a_slower_case_is_shown_with_its_interval():
    known = _differ(random.Random(1), 0.10)
    assert known.low < 0.105 < known.high
    assert known.low > 0.05
    assert known.processes == (5, 5)


def test_equal_cases_are_seldom_told_apart_and_intervals_hold_the_truth():
    draw = random.Random(2)
    found = [_differ(draw, 0.03) for _ in range(400)]
    held = sum(one.low <= 0.0304545 <= one.high for one in found)
    assert chance.proportion(held, len(found), 0.99)[1] > 0.95


def test_many_comparisons_hold_together():
    draw = random.Random(3)
    wrong = 0
    for _ in range(200):
        found = _timings({f"c{number}": _processes(draw) for number in range(6)})
        fastest, *others = found.values()
        wrong += any(slower(one, fastest, comparisons=5).low > 0 for one in others)
    assert chance.proportion(wrong, 200, 0.99)[0] < 0.05


def test_one_process_of_each_tells_a_large_difference_and_no_small_one():
    draw = random.Random(4)
    cases = {name: _processes(draw, work=work, count=1) for name, work in {"a": 0, "b": 0.01, "c": 0.5}.items()}
    found = _timings(cases)
    assert slower(found["b"], found["a"]).low < 0 < slower(found["c"], found["a"]).low


def test_where_plain_loops_differ_the_kernels_tell_and_else_nothing_does():
    draw = random.Random(5)
    cases = {"a": _processes(draw), "b": _processes(draw, work=-0.7, kernels=1.9)}
    same, other = _timings(cases), _timings(cases, b="another loop")
    assert slower(same["b"], same["a"]).estimate < -0.4
    assert slower(other["b"], other["a"]).estimate == pytest.approx(0.22, abs=0.1)
    new = _timings({"a": cases["a"], "b": _processes(draw, code={"plain": "q", "machine": "n"})})
    assert slower(new["b"], new["a"]) is None
    assert slower({}, same["a"]) is None


def test_candidates_of_a_run_are_told_apart_by_their_processes_and_not_by_their_steps():
    ddp, zero1 = "resnet18-ddp-2gpu-bs8", "resnet18-zero1-2gpu-bs8"
    made = [made_stored(ddp), made_stored(zero1, slower=1.3)]
    one, other = candidates([(result, None, made_certificate(result.case_id)) for result in made], REGISTRY.metrics)
    assert one.steps_s == other.steps_s
    known = slower(other.timing, one.timing)
    assert known.low < 0.3 < known.high
    assert known.low > 0.2
    bare = [replace(result, samples=()) for result in made]
    one, other = candidates([(result, None, made_certificate(result.case_id)) for result in bare], REGISTRY.metrics)
    assert slower(other.timing, one.timing) is None
