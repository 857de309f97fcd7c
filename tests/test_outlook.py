"""From stored results to forecasts: a made machine whose links are known is forecast as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.anatomy import outlook
from harness.anatomy.links import ForecastError
from harness.plugins import Traffic
from harness.records.ceilings import Ceilings, Point, Sweep
from harness.strategies.data_parallel import DDP
from tests.made import made_account, made_report, made_result
from tests.made import made_call as call
from tests.made import made_trace as trace

LATENCY_S = 0.001
BYTES_PER_S = 1e8


def _ceilings(ranks=2, latency_s=LATENCY_S, bytes_per_s=BYTES_PER_S):
    """Return sweeps of links with a latency a call and an algbw."""
    points = tuple(
        Point(size_bytes=size, seconds=(latency_s + size / bytes_per_s,)) for size in (1_000, 100_000, 10_000_000)
    )
    kinds = ("all_reduce", "all_gather", "reduce_scatter")
    return Ceilings(
        ranks=ranks,
        backend="gloo",
        device="cpu",
        products=(),
        copy_bytes=1,
        copy_s=(1.0,),
        sweeps=tuple(Sweep(kind=kind, points=points) for kind in kinds) if ranks > 1 else (),
    )


def _result(ranks, step_s, **over):
    """Return a result of DDP over 10,000 parameters; one call moves them, and nothing hides it."""
    traced = trace(calls=[call("all_reduce", 50, 50 + 1e3 * (LATENCY_S + 40_000 / BYTES_PER_S), elements=10_000)])
    facts = {
        "accounts": (made_account(),) * ranks,
        "traces": (traced,) * ranks,
        "ceilings": _ceilings(ranks),
    }
    reports = [made_report(rank, ranks, step_s=(9.0, *[step_s] * 8)) for rank in range(ranks)]
    return made_result(f"resnet18-ddp-{ranks}gpu-bs8", *reports, **(facts | over))


STRATEGIES = {"ddp": DDP}


def test_two_ranks_are_told_from_one_and_the_machines_own_links():
    fabric = outlook.measured_fabric(_ceilings())
    (error,) = outlook.check([_result(1, 0.1), _result(2, 0.1 + LATENCY_S + 4e-4)], STRATEGIES, fabric, backend="gloo")
    assert error.name == "resnet18-ddp-2gpu-bs8 from 1"
    assert error.relative == pytest.approx(0, abs=1e-9)


def test_a_measurement_that_parts_from_the_forecast_shows_by_how_much():
    fabric = outlook.measured_fabric(_ceilings())
    (error,) = outlook.check([_result(1, 0.1), _result(2, 0.2028)], STRATEGIES, fabric, backend="gloo")
    assert error.relative == pytest.approx(0.1014 / 0.2028 - 1)


def test_the_most_ranks_that_were_run_tell_the_forecast_and_shared_cores_none():
    fabric = outlook.measured_fabric(_ceilings())
    results = [_result(1, 0.1), _result(2, 0.2), _result(4, 0.3, oversubscribed=True)]
    ((one,), reasons) = outlook.forecasts(results, STRATEGIES, fabric, backend="gloo")
    assert reasons == []
    assert one.measured.ranks == 2
    at = {row.gpus: row for row in one.rows}
    assert at[2].step_s == pytest.approx(0.2)
    # A ring of four: 3 times the messages and 1.5 times the bytes of two.
    assert at[4].communication_s == pytest.approx(3 * LATENCY_S + 1.5 * 4e-4)


def test_memory_follows_what_is_sharded():
    halved = replace(DDP, memory=lambda share: _footprint(120_000 // share.ranks))
    results = [_result(2, 0.2)]
    ((one,), _) = outlook.forecasts(results, {"ddp": halved}, outlook.measured_fabric(_ceilings()), backend="gloo")
    at = {row.gpus: row.memory_bytes for row in one.rows}
    # The account's peak is 128,000, of which 60,000 are state at two ranks.
    assert (at[1], at[2], at[4]) == (188_000, 128_000, 98_000)


def _footprint(size):
    from harness.plugins import Footprint

    return Footprint(parameters=size, gradients=0, optimizer=0)


def test_a_reduce_scatter_is_what_the_target_makes_of_it():
    sharding = replace(DDP, traffic=lambda units, ranks: [Traffic(kind="reduce_scatter", elements=10_000, calls=1)])
    result = _result(1, 0.1)
    for backend, kind in (("gloo", "all_reduce"), ("nccl", "reduce_scatter")):
        (moved,) = outlook.measured_case(result, sharding, backend=backend).collectives(4)
        assert (moved.kind, moved.size_bytes) == (kind, 40_000)


def test_what_cannot_be_forecast_says_why():
    fabric = outlook.measured_fabric(_ceilings())
    (made, reasons) = outlook.forecasts([_result(1, 0.1, traces=())], STRATEGIES, fabric, backend="gloo")
    assert made == []
    assert reasons == ["resnet18-ddp-1gpu-bs8: needs its traced and its accounted run; give --traced and --accounted"]
    with pytest.raises(ForecastError, match="at least 2"):
        outlook.measured_fabric(_ceilings(1))
    unknown = replace(DDP, traffic=None)
    (_, reasons) = outlook.forecasts([_result(1, 0.1)], {"ddp": unknown}, fabric, backend="gloo")
    assert "what ddp moves is known from a run with several ranks alone" in reasons[0]


def test_links_of_a_known_rate_are_told_at_another():
    # 40,000 bytes at 1e8 bytes/s of algbw, which for two ranks is the bytes on the link too.
    fabric = outlook.known_links(_ceilings(), _result(2, 0.2).traces, nominal_bytes_per_s=2e8)
    link = fabric.by_kind["all_reduce"]
    # The smallest size's whole time counts as latency: 1.01 ms, and 0.39 ms are left for the bytes.
    assert 2 * link.latency_s == pytest.approx(0.00101)
    assert link.bytes_per_s == pytest.approx(40_000 / 0.00039)
    slower = fabric.at_rate(1e8, "half").by_kind["all_reduce"]
    assert slower.bytes_per_s == pytest.approx(link.bytes_per_s / 2)
    assert slower.latency_s == link.latency_s


def test_calls_that_only_wait_tell_nothing_of_the_rate():
    short = (trace(calls=[call("all_reduce", 50, 50.5)]),) * 2
    assert outlook.known_links(_ceilings(), short, nominal_bytes_per_s=2e8).by_kind["all_reduce"].bytes_per_s == 2e8


def test_links_that_nothing_crossed_are_not_known():
    with pytest.raises(ForecastError, match="moves nothing that was swept"):
        outlook.known_links(_ceilings(), (trace(),) * 2, nominal_bytes_per_s=2e8)
