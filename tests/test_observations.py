"""What a process says of a case's time: mean log ratios of its rounds, of the slowest rank."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.gate.observations import control, machine, observe, same_work, wall
from harness.records.samples import RankSamples, Samples

VIEWS = {"same work": same_work, "machine": machine, "wall": wall, "control": control}


def _rank(**over):
    """Return a rank of two rounds, in which a case takes twice the plain loop and four times each kernel."""
    facts = {
        "case_us": (400, 800),
        "plain_us": (200, 400),
        "convolution_us": (50, 400),
        "product_us": (200, 100),
        "collective_us": (),
    }
    return RankSamples(**(facts | over))


def _samples(*ranks, **over):
    facts = {
        "stage": "screen",
        "started_unix_s": 0.0,
        "wall_s": 1.0,
        "settled_after": 2,
        "steps": 1,
        "references": {"plain": "p", "machine": "m"},
        "ranks": ranks or (_rank(),),
    }
    return Samples(**(facts | over))


def test_views_are_mean_logs_over_rounds():
    seen = {view: look(_samples()) for view, look in VIEWS.items()}
    assert seen["same work"].mean == pytest.approx(math.log(2))
    assert seen["machine"].mean == pytest.approx(math.log(4))
    assert seen["control"].mean == pytest.approx(math.log(2))
    assert seen["wall"].mean == pytest.approx((math.log(400) + math.log(800)) / 2)
    assert seen["wall"].variance == pytest.approx(math.log(2) ** 2 / 2)
    assert {one.rounds for one in seen.values()} == {2}


def test_steps_in_a_round_change_no_view():
    longer = _samples(_rank(case_us=(1600, 3200), plain_us=(800, 1600)), steps=4)
    for view, look in VIEWS.items():
        assert look(longer).mean == pytest.approx(look(_samples()).mean), view


def test_the_slowest_rank_counts_of_the_case_and_of_the_references():
    slow = _rank(case_us=(800, 1600), plain_us=(400, 800))
    for ranks in ((_rank(), slow), (slow, _rank())):
        two = _samples(*ranks)
        assert same_work(two).mean == pytest.approx(math.log(2))
        assert machine(two).mean == pytest.approx(math.log(8))


@pytest.mark.parametrize(
    ("lost", "views"),
    [
        ({"plain_us": ()}, {"machine", "wall"}),
        ({"plain_us": (200,)}, {"machine", "wall"}),
        ({"product_us": (0, 100)}, {"same work", "wall"}),
        ({"convolution_us": ()}, {"same work", "wall"}),
        ({"case_us": (0, 800)}, {"control"}),
        ({}, set(VIEWS)),
    ],
)
def test_a_view_with_a_missing_or_zero_figure_is_left_out(lost, views):
    assert set(observe(_samples(_rank(**lost))).views) == views


def test_ranks_that_do_not_agree_on_the_rounds_of_a_reference_have_no_view_of_it():
    assert same_work(_samples(_rank(), _rank(plain_us=(200,)))) is None


def test_of_one_round_no_variance_is_known():
    one = _samples(_rank(case_us=(400,), plain_us=(200,), convolution_us=(50,), product_us=(200,)))
    assert same_work(one).variance is None


def test_a_process_keeps_what_it_is_judged_by():
    samples = _samples(_rank(), _rank(), settled_after=None)
    process = observe(samples, lambda one: (f"of {len(one.ranks)}",))
    assert (process.settled, process.confirms, process.disturbed, process.ranks) == (False, False, ("of 2",), 2)
    assert process.references == {"plain": "p", "machine": "m"}
    assert observe(replace(samples, stage="confirm")).confirms
