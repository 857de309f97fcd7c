"""How busy a machine was and what power it drew, each in one number; what was not read is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.anatomy.load import busy_over_time, busy_share, power_over_time, power_w
from harness.records.telemetry import CoreReading, GpuFacts, GpuReading, Measured, Reading, Telemetry, Zone


def gpus(*watts, busy=(50, 30)):
    """Return three seconds of two GPUs: the second reads what is given, at each second."""
    readings = tuple(
        Reading(
            at_s=float(second),
            gpus=(
                GpuReading(utilisation_percent=busy[0], power_mw=100_000),
                GpuReading(utilisation_percent=busy[1], power_mw=None if watt is None else watt * 1000),
            ),
        )
        for second, watt in enumerate(watts)
    )
    facts = GpuFacts(uuid="GPU-1", name="made", sliced=False)
    return made(gpus=(facts, facts), readings=readings)


def cores():
    """Return two seconds of two cores, half and wholly busy, and a processor that took 30 J."""
    first = {core: CoreReading(processes=0, interrupts=0, stolen=0, idle=0) for core in (0, 1)}
    last = {
        0: CoreReading(processes=90, interrupts=10, stolen=0, idle=100),
        1: CoreReading(processes=200, interrupts=0, stolen=0, idle=0),
    }
    readings = (Reading(at_s=0.0, cores=first, zones_uj=(0,)), Reading(at_s=2.0, cores=last, zones_uj=(30_000_000,)))
    return made(zones=(Zone(name="package-0", range_uj=2**40),), readings=readings)


def made(**over):
    facts = {
        "interval_s": 1.0,
        "ticks_per_s": 100,
        "memory_total_bytes": None,
        "gpus": (),
        "zones": (),
        "readings": (),
        "names": {},
        "missing": {},
        "cost_s": 0.0,
    }
    return Telemetry(**(facts | over))


def test_gpus_are_busy_in_the_mean_and_draw_power_together():
    assert busy_share(gpus(50, 60, 70)) == pytest.approx(0.4)
    assert power_w(gpus(50, 60, 70)) == pytest.approx(160)


def test_without_gpus_it_is_the_cores_and_the_processor():
    assert busy_share(cores()) == pytest.approx(0.75)
    assert power_w(cores()) == pytest.approx(15)


def test_a_gpu_that_tells_nothing_leaves_the_sum_unknown():
    assert power_w(gpus(None, None, None)) is None
    assert busy_share(gpus(50, 60, 70, busy=(50, None))) is None


@pytest.mark.parametrize("figure", [busy_share, power_w])
def test_what_was_not_read_is_not_known(figure):
    assert figure(None) is None
    assert figure(made()) is None
    assert figure(replace(gpus(50, 60), interval_s=None, readings=())) is None


def test_of_each_moment_it_is_the_share_since_the_reading_before():
    told = made(readings=tuple(Reading(at_s=5.0 + at, cores={0: core(at, 0.5), 1: core(at, 1)}) for at in range(3)))
    assert busy_over_time(told) == [pytest.approx((1.0, 0.75)), pytest.approx((2.0, 0.75))]
    assert busy_over_time(gpus(50, 60)) == [pytest.approx((0.0, 0.4)), pytest.approx((1.0, 0.4))]


def core(seconds, busy):
    used = round(100 * seconds * busy)
    return CoreReading(processes=used, interrupts=0, stolen=0, idle=100 * seconds - used)


def test_power_of_each_moment_is_of_all_devices_and_a_counter_may_begin_anew():
    assert power_over_time(gpus(50, 60)) == [pytest.approx((0.0, 150)), pytest.approx((1.0, 160))]
    assert power_over_time(gpus(50, None)) == [pytest.approx((0.0, 150))], "of one GPU it is not that of all"
    zone = Zone(name="package-0", range_uj=100_000_000)
    readings = tuple(Reading(at_s=float(at), zones_uj=(uj,)) for at, uj in enumerate((95_000_000, 5_000_000)))
    assert power_over_time(made(zones=(zone,), readings=readings)) == [pytest.approx((1.0, 10))]


def test_only_the_measured_time_is_told_and_nothing_of_what_was_not_sampled():
    every = gpus(50, 60, 70, 80)
    inside = replace(every, measured=Measured(begin_s=0.5, end_s=2.5, images=1))
    assert power_over_time(inside) == [pytest.approx((0.5, 160)), pytest.approx((1.5, 170))]
    assert power_over_time(replace(every, interval_s=None)) == []
    assert busy_over_time(None) == power_over_time(None) == []
