"""Processes are taken of all cases in random order, spread over the run, and a case that fails costs no other one."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from harness.case import Case
from harness.errors import WorkerFailed
from harness.records.telemetry import Telemetry
from harness.running import sampler as samplers
from tests.fake_ranks import WALL_S, Clock, FakeRanks

CASES = [Case(model="net", strategy="ddp", gpu_count=2, batch_size=1 << place) for place in range(6)]
FIRST, SECOND, THIRD = CASES[:3]


def _passes(order):
    """Return the cases of each pass over all of them."""
    return [order[start : start + len(CASES)] for start in range(0, len(order), len(CASES))]


def test_every_pass_takes_one_of_each_in_an_order_of_its_own():
    ranks = FakeRanks()
    ranks.sampler().take(dict.fromkeys(CASES, 10), stage="screen", rounds_s=1.0)
    passes = _passes(ranks.cases)
    assert len(passes) == 10
    assert all(sorted(one, key=str) == sorted(CASES, key=str) for one in passes)
    assert len({tuple(one) for one in passes}) > 5
    # No place in a pass is a case's own.
    assert all(len({one.index(case) for one in passes}) > 2 for case in CASES)


def test_another_run_has_another_order():
    orders = []
    for order in range(3):
        ranks = FakeRanks()
        ranks.sampler(order).take(dict.fromkeys(CASES, 2), stage="screen", rounds_s=1.0)
        orders.append(ranks.cases)
    assert orders[0] != orders[1] != orders[2]


def test_a_case_that_needs_more_goes_on_alone():
    ranks = FakeRanks()
    ranks.sampler().take({FIRST: 1, SECOND: 3, THIRD: 0}, stage="screen", rounds_s=1.0)
    assert sorted(ranks.cases[:2], key=str) == sorted([FIRST, SECOND], key=str)
    assert ranks.cases[2:] == [SECOND, SECOND]


def test_nothing_wanted_takes_nothing():
    ranks = FakeRanks()
    ranks.sampler().take({}, stage="screen", rounds_s=1.0)
    assert ranks.asked == []


def test_a_process_is_launched_to_replicate_and_its_title_counts():
    ranks = FakeRanks()
    ranks.sampler().take({FIRST: 2}, stage="confirm", rounds_s=3.0)
    assert [title for _, title, _ in ranks.asked] == [f"confirm 1/2  {FIRST}", f"confirm 2/2  {FIRST}"]
    assert [over for _, _, over in ranks.asked] == [
        {"purpose": "replicate", "sampled_s": 3.0, "seed": seed} for seed in (0, 1)
    ]


def test_the_nth_process_of_a_case_has_the_nth_seed_in_every_run():
    ranks = FakeRanks()
    sampler = ranks.sampler()
    sampler.take({FIRST: 2, SECOND: 1}, stage="screen", rounds_s=1.0)
    sampler.take({SECOND: 1, FIRST: 2}, stage="confirm", rounds_s=1.0)
    seeds = {case: [over["seed"] for asked, _, over in ranks.asked if asked == case] for case in (FIRST, SECOND)}
    assert seeds == {FIRST: [0, 1, 2, 3], SECOND: [0, 1]}


def test_what_was_taken_is_kept_by_stage_in_the_order_it_ran():
    ranks = FakeRanks()
    sampler = ranks.sampler()
    sampler.take({FIRST: 2}, stage="screen", rounds_s=1.0)
    sampler.take({FIRST: 3}, stage="confirm", rounds_s=1.0)
    whole = sampler.of(FIRST)
    assert [one.stage for one in whole] == ["screen"] * 2 + ["confirm"] * 3
    assert (sampler.of(FIRST, "screen"), sampler.of(FIRST, "confirm")) == (whole[:2], whole[2:])
    assert sampler.of(SECOND) == ()
    one = whole[0]
    assert (len(one.ranks), one.wall_s, one.settled_after, one.steps) == (2, WALL_S, 3, 1)
    assert one.references == {"plain": "p", "machine": "m"}


def test_a_case_that_fails_is_not_tried_again_and_stops_no_other():
    ranks = FakeRanks(failing=[SECOND])
    sampler = ranks.sampler()
    sampler.take(dict.fromkeys(CASES, 3), stage="screen", rounds_s=1.0)
    sampler.take(dict.fromkeys(CASES, 1), stage="confirm", rounds_s=1.0)
    assert ranks.cases.count(SECOND) == 1
    assert {len(sampler.of(case)) for case in CASES if case != SECOND} == {4}
    assert (sampler.of(SECOND), [*sampler.failed]) == ((), [SECOND])
    assert isinstance(sampler.failed[SECOND], WorkerFailed)


def test_what_a_case_had_before_it_failed_stays():
    ranks = FakeRanks()
    sampler = ranks.sampler()
    sampler.take({FIRST: 2}, stage="screen", rounds_s=1.0)
    ranks.failing = [FIRST]
    sampler.take({FIRST: 2}, stage="confirm", rounds_s=1.0)
    assert len(sampler.of(FIRST)) == 2
    assert FIRST in sampler.failed


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(samplers, "time", clock)
    return clock


def test_no_process_is_begun_after_the_time_is_up(clock):
    ranks = FakeRanks(clock=clock)
    # Begun at 0, 2 and 4 s; at 6 s it is too late.
    ranks.sampler().take(dict.fromkeys(CASES, 2), stage="screen", rounds_s=1.0, until_s=clock.now_s + 5)
    assert len(ranks.asked) == 3


def test_what_processes_cost_is_counted_those_that_failed_too(clock):
    ranks = FakeRanks(clock=clock, failing=[SECOND])
    sampler = ranks.sampler()
    sampler.take({FIRST: 2, SECOND: 2}, stage="screen", rounds_s=1.0)
    assert sampler.cost_s == pytest.approx(3 * WALL_S)
    assert [one.started_unix_s for one in sampler.of(FIRST)] == sorted(one.started_unix_s for one in sampler.of(FIRST))


def test_what_the_machine_told_while_a_process_ran_is_kept_with_it():
    told = Telemetry(
        interval_s=None,
        ticks_per_s=100,
        memory_total_bytes=None,
        gpus=(),
        zones=(),
        readings=(),
        names={},
        missing={"cores": "made"},
        cost_s=0.0,
    )
    asked = []

    @contextmanager
    def sampled(case, *, interval_s):
        asked.append((case, interval_s))
        window = SimpleNamespace(telemetry=None)
        yield window
        window.telemetry = told  # known only when the block is over

    sampler = FakeRanks().sampler()
    sampler.sampled = sampled
    sampler.take({FIRST: 1}, stage="screen", rounds_s=1.0)
    assert asked == [(FIRST, None)]
    assert sampler.of(FIRST)[0].watched == told


def test_accepted_code_is_taken_in_turns_with_the_candidate_and_with_its_data():
    ours, theirs = FakeRanks(), FakeRanks()
    candidate, accepted = ours.sampler(), theirs.sampler()
    candidate.take({FIRST: 3}, stage="screen", rounds_s=1.0)
    candidate.take_beside(accepted, {FIRST: 8, SECOND: 4}, agents=4, rounds_s=2.0)
    for case, count in ((FIRST, 8), (SECOND, 4)):
        assert len(candidate.of(case, "confirm")) == len(accepted.of(case, "confirm")) == count
        seeds = [[over["seed"] for one, _, over in ranks.asked[-12:] if one == case] for ranks in (ours, theirs)]
        assert seeds[0] == seeds[1]
    # Four agents each, every one of which started its part of both.
    assert len(ours.renewed) == len(theirs.renewed) == 4
    assert [one.agent for one in candidate.of(FIRST, "confirm")] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert {one.agent for one in candidate.of(FIRST, "screen")} == {0}


def test_where_the_accepted_code_fails_no_more_of_it_is_asked_for():
    ours, theirs = FakeRanks(), FakeRanks(failing=[FIRST])
    candidate, accepted = ours.sampler(), theirs.sampler()
    candidate.take_beside(accepted, {FIRST: 5, SECOND: 5}, agents=1, rounds_s=1.0)
    assert theirs.cases.count(FIRST) == 1 and theirs.cases.count(SECOND) == 5
    assert ours.cases.count(FIRST) <= 1 and ours.cases.count(SECOND) == 5
