"""Figures of collectives, checked by hand; and the mistakes that others make of them."""

from __future__ import annotations

import pytest

from harness.anatomy import communication
from harness.anatomy.communication import bus_factor, figures, size_bytes, straggler
from tests.made import made_call as call
from tests.made import made_trace as trace

MB = 250_000
"""Elements of FP32 in 10^6 bytes."""


def _of(kind, found):
    return next(one for one in found if one.kind == kind)


def test_bandwidths_are_those_of_nccl_tests():
    # 8 MB in 2 ms: algbw 4 GB/s, no more; busbw of an all-reduce of 4 ranks 4 x 2 x 3 / 4 = 6 GB/s.
    ranks = [trace(calls=[call("all_reduce", 0, 2, elements=8 * MB)]) for _ in range(4)]
    (found,) = figures(ranks)
    assert found.size_bytes == 8e6
    assert found.algbw_bytes_per_s == pytest.approx(4e9)
    assert found.busbw_bytes_per_s == pytest.approx(6e9)


def test_the_size_of_a_gathering_is_the_whole_and_of_a_scattering_its_input():
    assert size_bytes(call("all_gather", 0, 1, elements=MB), 4) == 4e6
    assert size_bytes(call("reduce_scatter", 0, 1, elements=4 * MB), 4) == 4e6
    assert size_bytes(call("all_reduce", 0, 1, elements=MB, type="bf16"), 4) == 5e5
    assert size_bytes(call("all_reduce", 0, 1, type="quantum"), 4) is None
    assert bus_factor("all_gather", 4) == bus_factor("reduce_scatter", 4) == 0.75
    assert bus_factor("something_new", 4) is None


def test_an_unknown_type_has_no_bandwidth_and_still_its_seconds():
    (found,) = figures([trace(calls=[call("all_reduce", 0, 2, type="quantum")])] * 2)
    assert (found.size_bytes, found.algbw_bytes_per_s, found.busbw_bytes_per_s) == (None, None, None)
    assert found.transfer_s == pytest.approx(0.002)


def test_the_wait_for_a_late_rank_is_no_transfer():
    early = trace(calls=[call("all_reduce", 10, 32, elements=8 * MB)])
    late = trace(calls=[call("all_reduce", 30, 32, elements=8 * MB)])
    (found,) = figures([early, late])
    assert found.wait_s == pytest.approx((0.020 + 0) / 2)
    assert found.transfer_s == pytest.approx(0.002)
    assert found.algbw_bytes_per_s == pytest.approx(4e9)  # 0.7 GB/s if the wait were counted


def test_compute_hides_what_runs_beside_it():
    ranks = [trace(compute=[(0, 15)], calls=[call("all_reduce", 10, 30)]) for _ in range(2)]
    (found,) = figures(ranks)
    assert found.transfer_s == pytest.approx(0.020)
    assert found.exposed_s == pytest.approx(0.015)


def test_calls_are_matched_by_kind_and_size_and_not_by_place():
    one = trace(calls=[call("all_gather", 0, 5), call("all_reduce", 5, 10), call("all_reduce", 10, 20)])
    other = trace(calls=[call("all_reduce", 2, 10), call("all_gather", 4, 8), call("all_reduce", 12, 20)])
    found = figures([one, other])
    assert _of("all_reduce", found).wait_s == pytest.approx((0.002 + 0.003) / 2)
    assert _of("all_gather", found).wait_s == pytest.approx(0.004 / 2)
    assert _of("all_reduce", found).calls == 2


def test_a_call_that_not_every_rank_makes_is_waited_for_by_none():
    (found,) = figures([trace(calls=[call("send", 0, 5)]), trace()])
    assert found.wait_s == 0
    assert found.calls == 0.5  # the mean over ranks


def test_one_rank_moves_nothing():
    assert figures([trace(calls=[call("all_reduce", 0, 1)])]) == []


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "a_kind_nobody_heard_of"])
def test_a_slow_rank_is_named_whatever_the_collective_is_called(kind):
    ranks = [trace(calls=[call(kind, 10 if rank != 2 else 30, 35)]) for rank in range(4)]
    assert straggler(ranks) == (2, pytest.approx(0.020))


def test_ranks_that_are_late_in_turn_are_no_straggler():
    ranks = [
        trace(calls=[call("all_reduce", 10, 40), call("all_gather", 70, 90)]),
        trace(calls=[call("all_reduce", 30, 40), call("all_gather", 50, 90)]),
    ]
    assert straggler(ranks) is None


def test_a_wait_of_no_account_names_nobody():
    ranks = [trace(calls=[call("all_reduce", 10 + rank, 20)]) for rank in range(2)]  # 1 of 100 ms
    assert straggler(ranks) is None


def test_nothing_is_waited_for_twice_when_calls_wait_at_once():
    both = [call("all_reduce", 10, 40), call("all_gather", 10, 40)]
    late = [call("all_reduce", 30, 40), call("all_gather", 30, 40)]
    assert straggler([trace(calls=both), trace(calls=late)]) == (1, pytest.approx(0.020))
    waits, transfers = communication.waits_and_transfers(
        communication.matched([trace(calls=both).steps[0], trace(calls=late).steps[0]])[0]
    )
    assert waits == [pytest.approx((0.010, 0.030))]
    assert transfers == [pytest.approx((0.030, 0.040))]
