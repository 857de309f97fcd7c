"""Ceilings: nccl-tests' definitions by hand-made figures, fits that find the line, and a real measurement."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter

from harness.anatomy import ceilings as anatomy
from harness.plugins import World
from harness.records.ceilings import Ceilings, Loaded, Point, Product, Sweep
from tests.ranks import run_ranks


def _sweep(kind, times):
    return Sweep(kind=kind, points=tuple(Point(size_bytes=size, seconds=(s,) * 3) for size, s in times.items()))


def made(**over):
    """Return ceilings with figures that are easily worked out by hand."""
    lines = {
        kind: {size: 1e-4 + size / 4e9 for size in (2**12, 2**20)}
        for kind in ("all_reduce", "all_gather", "reduce_scatter")
    }
    lines["all_gather"] = {2**12: 1e-4, 2**20: 2**20 / 4e9}
    facts = {
        "ranks": 2,
        "backend": "gloo",
        "device": "cpu",
        "products": (
            Product(type="fp32", flops=1e9, seconds=(0.02, 0.5, 0.02)),
            Product(type="fp32", flops=1e8, seconds=(0.01,)),
        ),
        "copy_bytes": 10**9,
        "copy_s": (0.1, 0.1, 0.3),
        "sweeps": tuple(_sweep(kind, times) for kind, times in lines.items()),
    }
    return Ceilings(**(facts | over))


@pytest.mark.parametrize(
    ("kind", "ranks", "busbw"),
    [("all_reduce", 2, 4e9), ("all_reduce", 8, 7e9), ("all_gather", 4, 3e9), ("reduce_scatter", 4, 3e9)],
)
def test_algbw_is_size_over_time_never_twice_that_and_busbw_is_nccl_tests(kind, ranks, busbw):
    point = Point(size_bytes=4_000_000, seconds=(0.001, 0.001, 0.9))
    assert anatomy.algbw_bytes_per_s(point) == pytest.approx(4e9)
    assert anatomy.busbw_bytes_per_s(kind, point, ranks) == pytest.approx(busbw)


def test_the_best_size_of_a_product_counts_and_one_slow_repetition_does_not():
    assert anatomy.peak_flops_per_s(made()) == pytest.approx(5e10)
    assert anatomy.copy_bytes_per_s(made()) == pytest.approx(1e10)


def test_a_type_without_a_measured_peak_has_no_mfu():
    assert anatomy.peak_flops_per_s(made(), "bf16") is None
    assert anatomy.mfu(1e9, 0.1, None) is None
    assert anatomy.mfu(None, 0.1, 5e10) is None
    assert anatomy.mfu(1e9, 0.1, 5e10) == pytest.approx(0.2)


def test_tf32_counts_for_fp32_where_it_was_measured():
    tf32 = Product(type="tf32", flops=1e9, seconds=(0.001,))
    assert anatomy.peak_flops_per_s(made(products=(*made().products, tf32))) == pytest.approx(1e12)


def test_a_fit_finds_latency_and_bandwidth_though_one_size_was_disturbed():
    times = {size: 2e-4 + size / 1e9 for size in (2**12, 2**15, 2**18, 2**21, 2**24)}
    line = anatomy.fitted(_sweep("all_reduce", times))
    assert (line.latency_s, line.bytes_per_s) == (pytest.approx(2e-4), pytest.approx(1e9))
    assert line.worst_error == pytest.approx(0, abs=1e-9)
    line = anatomy.fitted(_sweep("all_reduce", times | {2**18: 3 * times[2**18]}))
    assert (line.latency_s, line.bytes_per_s) == (pytest.approx(2e-4), pytest.approx(1e9))
    assert line.worst_error == pytest.approx(2 / 3)


def test_a_line_has_no_latency_below_zero():
    line = anatomy.fitted(_sweep("all_reduce", {1000: 1e-6, 2000: 4e-6}))
    assert line.latency_s == 0
    assert line.bytes_per_s > 0


def test_one_size_is_no_line():
    with pytest.raises(ValueError, match="needs two"):
        anatomy.fitted(_sweep("all_reduce", {1000: 1e-6}))


def test_seconds_are_those_measured_and_between_and_beyond_them_sensible():
    table = anatomy.Interpolation(made())
    assert table.seconds("all_gather", 2**20) == pytest.approx(2**20 / 4e9)
    assert table.seconds("all_gather", 1) == pytest.approx(1e-4)
    assert table.seconds("all_gather", 2**22) == pytest.approx(2**22 / 4e9)
    assert 1e-4 < table.seconds("all_gather", 2**16) < 2**20 / 4e9
    assert table.seconds("broadcast", 1) is None


def test_the_slowest_loader_decides():
    assert anatomy.images_per_s([Loaded(images=100, seconds=1.0), Loaded(images=100, seconds=2.0)]) == 100.0


def _measured(rank, size):
    from harness.worker import ceilings

    ceilings._SIZES = {"cpu": (64,)}
    ceilings._COPIED_BYTES = range(2**12, 2**13)
    ceilings._PER_POINT_S = 0.0
    world = World(rank=rank, local_rank=rank, size=size, device="cpu", backend="gloo")
    return ceilings.ceilings(SimpleNamespace(world=world, phases=lambda name: nullcontext()))


def test_ranks_measure_alike_and_every_kind_at_nccl_tests_sizes():
    first, second = run_ranks(_measured, 2, 2)
    assert first == second
    record = TypeAdapter(Ceilings).validate_python(first["extra"]["ceilings"])
    assert [sweep.kind for sweep in record.sweeps] == ["all_reduce", "all_gather", "reduce_scatter"]
    for sweep in record.sweeps:
        assert [point.size_bytes for point in sweep.points] == [2**12, 2**15, 2**18, 2**21, 2**24]
        assert all(len(point.seconds) >= 3 and min(point.seconds) > 0 for point in sweep.points)
    assert {one.type for one in record.products} == {"fp32", "bf16"}
    assert record.products[0].flops == 2 * 64**3
    assert record.copy_bytes == 2 * 2**13
