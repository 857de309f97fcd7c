"""The time budget of a step, checked by hand: every moment counts once, and the parts add up to the step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.anatomy.budget import WORDS, budgets
from tests.made import ANY_SPEED
from tests.made import made_call as call
from tests.made import made_trace as trace

PARTS = (*WORDS, "remainder_s")


def _ms(budget):
    return {name: round(1e3 * (getattr(budget, name) or 0), 6) for name in PARTS if getattr(budget, name)}


def test_each_moment_counts_once_for_the_first_that_holds():
    # 0-10 the batch; 10-50 compute; all-reduce from 40, ready at 60, to 80; host to 95; then nothing to 100.
    own = trace(data=(0, 10), update=(10, 95), compute=[(10, 50)], calls=[call("all_reduce", 40, 80)])
    other = trace(calls=[call("all_reduce", 60, 80)])
    first, _ = budgets([own, other])
    assert _ms(first) == {
        "compute_s": 40,
        "communication_s": 20,
        "late_s": 10,
        "data_s": 10,
        "host_s": 15,
        "remainder_s": 5,
    }
    assert first.step_s == pytest.approx(0.1)
    assert first.flagged
    assert first.bound == "compute"


def test_a_small_remainder_is_not_flagged():
    (one,) = budgets([trace(update=(0, 98.1))])
    assert _ms(one)["remainder_s"] == pytest.approx(1.9)
    assert not one.flagged


def test_time_without_a_core_is_taken_from_what_runs_in_proportion():
    own = trace(data=(0, 10), update=(10, 100), compute=[(10, 40)], calls=[call("all_reduce", 60, 100)], queued=12)
    first, _ = budgets([own, own])
    # 10 of data, 30 of compute and 20 of host work gave 2, 6 and 4; the transfer gave nothing.
    assert _ms(first) == {"compute_s": 24, "communication_s": 40, "data_s": 8, "host_s": 16, "idle_s": 12}


def test_what_the_kernel_does_not_tell_is_none():
    (one,) = budgets([trace(queued=None)])
    assert one.idle_s is None


@pytest.mark.parametrize(
    ("made", "word"),
    [
        ({"compute": [(0, 60)], "update": (0, 100)}, "compute"),
        ({"calls": [call("all_reduce", 0, 60)], "update": (0, 100)}, "communication"),
        ({"data": (0, 60), "update": (60, 100)}, "data"),
        ({"update": (0, 100), "compute": [(0, 30)]}, "host"),
        ({"update": (0, 100), "compute": [(0, 100)], "queued": 60}, "no core"),
    ],
)
def test_the_largest_part_gives_the_word(made, word):
    first, _ = budgets([trace(**made)] * 2)
    assert first.bound == word


def test_waiting_for_a_late_rank_counts_as_communication_in_the_word():
    waits = trace(update=(0, 100), compute=[(0, 40)], calls=[call("all_reduce", 40, 100)])
    late = trace(update=(0, 100), compute=[(0, 90)], calls=[call("all_reduce", 95, 100)])
    assert [budget.bound for budget in budgets([waits, late])] == ["communication", "compute"]


@ANY_SPEED
@given(st.lists(st.tuples(*[st.integers(0, 100)] * 8), min_size=1, max_size=3), st.integers(0, 150))
def test_the_parts_add_up_to_the_step(edges, queued):
    def pair(a, b):
        return (min(a, b), max(a, b))

    ranks = [
        trace(
            data=pair(e[0], e[1]),
            update=pair(e[2], e[3]),
            compute=[pair(e[4], e[5])],
            calls=[call("all_reduce", *pair(e[6], e[7]))],
            queued=queued,
        )
        for e in edges
    ]
    for one in budgets(ranks):
        assert sum(getattr(one, name) for name in PARTS) == pytest.approx(one.step_s)
        assert all(getattr(one, name) >= 0 for name in PARTS)
