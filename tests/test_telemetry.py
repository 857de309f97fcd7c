"""Figures follow from raw readings by sums a person can do, and what disturbed a case is told in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from harness.anatomy.telemetry import disturbance, figures
from harness.records.telemetry import CoreReading, GpuFacts, GpuReading, Measured, Reading, Telemetry, Zone


def made_telemetry(*readings, gpus=0, **over):
    facts = {
        "interval_s": 1.0,
        "ticks_per_s": 100,
        "memory_total_bytes": 1000,
        "gpus": tuple(GpuFacts(uuid=f"GPU-{n}", name="Made", sliced=False) for n in range(gpus)),
        "zones": (),
        "readings": readings,
        "names": {},
        "missing": {},
        "cost_s": 0.01,
    }
    return Telemetry(**(facts | over))


def of_gpus(*rows, **over):
    """Return readings a second apart, each row those of the GPUs."""
    count = len(rows[0])
    readings = (Reading(at_s=float(at), gpus=tuple(GpuReading(**gpu) for gpu in row)) for at, row in enumerate(rows))
    return made_telemetry(*readings, gpus=count, **over)


def of_one(*gpus, **over):
    return of_gpus(*((gpu,) for gpu in gpus), **over)


def of_cores(*, processes, own, idle=0, stolen=0, **over):
    """Return two readings of one core with these ticks in between."""
    zero = CoreReading(processes=50, interrupts=5, stolen=5, idle=500)
    after = CoreReading(processes=50 + processes, interrupts=5, stolen=5 + stolen, idle=500 + idle)
    return made_telemetry(
        Reading(at_s=0.0, cores={3: zero}, own_ticks=1000),
        Reading(at_s=1.0, cores={3: after}, own_ticks=1000 + own),
        **over,
    )


def of_zone(*counters, gap_s=1.0, range_uj=10_000_000_000, **over):
    readings = (Reading(at_s=at * gap_s, zones_uj=(counter,)) for at, counter in enumerate(counters))
    return made_telemetry(*readings, zones=(Zone(name="package-0", range_uj=range_uj),), **over)


def test_energy_is_the_counters_difference_and_divides_by_the_images():
    told = of_one({"energy_mj": 1000}, {"energy_mj": 51_000}, {"energy_mj": 101_000})
    told = replace(told, measured=Measured(begin_s=0, end_s=2, images=50))
    found = figures(told)
    assert found.gpus[0].energy.joules == pytest.approx(100)
    assert found.gpus[0].energy.source == "energy counter"
    assert found.joules_per_image == pytest.approx(2)


def test_without_a_counter_power_is_integrated_and_says_so():
    found = figures(of_one({"power_mw": 100_000}, {"power_mw": 200_000}, {"power_mw": 100_000}))
    assert found.gpus[0].energy.joules == pytest.approx(300)
    assert found.gpus[0].energy.source == "power samples"


@pytest.mark.parametrize("counters", [(7, 7), (9, 2)])
def test_a_counter_that_stands_still_or_began_anew_is_not_taken(counters):
    told = of_one(*({"energy_mj": counter, "power_mw": 100_000} for counter in counters))
    assert figures(told).gpus[0].energy.source == "power samples"
    told = of_one(*({"energy_mj": counter} for counter in counters))
    assert figures(told).gpus[0].energy is None


def test_energy_is_of_the_measured_time_and_not_of_what_came_before():
    told = of_one(*({"energy_mj": energy} for energy in (0, 900_000, 1_000_000, 1_100_000, 5_000_000)))
    told = replace(told, measured=Measured(begin_s=0.5, end_s=3.5, images=100))
    # 100 W between the three readings in it, over its 3 s.
    assert figures(told).gpus[0].energy.joules == pytest.approx(300)


def test_joules_of_an_image_are_those_of_all_gpus_or_none():
    both = of_gpus(*([{"energy_mj": energy}, {"energy_mj": 2 * energy}] for energy in (0, 1000)))
    both = replace(both, measured=Measured(begin_s=0, end_s=1, images=1))
    assert figures(both).joules_per_image == pytest.approx(3)
    one = of_gpus(*([{"energy_mj": energy}, {}] for energy in (0, 1000)), measured=both.measured)
    assert figures(one).gpus[1].energy is None
    assert figures(one).joules_per_image is None


@pytest.mark.parametrize("over", [{"measured": Measured(begin_s=0.4, end_s=0.6, images=5)}, {"interval_s": None}])
def test_too_few_readings_of_the_steps_give_no_energy_and_no_utilisation(over):
    told = of_one({"energy_mj": 0, "utilisation_percent": 5}, {"energy_mj": 9, "utilisation_percent": 9}, **over)
    assert figures(told).gpus[0].energy is None
    assert figures(told).gpus[0].utilisation is None
    assert figures(told).joules_per_image is None


def test_a_processors_counter_may_begin_anew():
    found = figures(of_zone(9_999_000_000, 9_000_000, 59_000_000, gap_s=1.0))
    assert found.cpu.energy.joules == pytest.approx(1 + 9 + 50)


def test_a_counter_that_may_have_begun_anew_twice_tells_nothing():
    assert figures(of_zone(0, 5_000_000, gap_s=20.0)).cpu.energy is None
    assert figures(of_zone(0, 5_000_000, gap_s=9.0)).cpu.energy is not None


def test_a_counter_that_could_not_be_read_is_no_zero():
    assert figures(of_zone(0, None, 5)).cpu.energy is None


def test_the_spread_of_a_figure_is_over_what_was_read():
    found = figures(of_one({"utilisation_percent": 50, "temperature_c": 60}, {"utilisation_percent": 100}))
    assert (found.gpus[0].utilisation.mean, found.gpus[0].utilisation.most) == (0.75, 1.0)
    assert found.gpus[0].temperature_c.most == 60
    assert found.gpus[0].power_w is None


@pytest.mark.parametrize(
    ("bits", "reason"), [(0x04, "power cap"), (0x20, "heat (driver)"), (0x40, "heat (hardware)"), (0x80, "power brake")]
)
def test_clocks_held_down_say_by_what_and_for_how_long(bits, reason):
    told = of_one(*({"reasons": bits if at < 2 else 0} for at in range(5)))
    assert figures(told).gpus[0].throttled_s == {reason: pytest.approx(2)}
    assert disturbance(told) == (f"GPU 0: clocks held down by {reason} for 50% of 4.0 s",)


@pytest.mark.parametrize("bits", [0x00, 0x01, 0x02, 0x100])
def test_an_idle_gpu_and_clocks_that_were_asked_for_are_no_disturbance(bits):
    told = of_one({"reasons": bits}, {"reasons": bits})
    assert figures(told).gpus[0].throttled_s == {}
    assert disturbance(told) == ()


def test_counters_tell_of_throttling_between_two_readings_too():
    before, after = (
        {"violation_ns": {"thermal": 10**9, "power": 7}},
        {"violation_ns": {"thermal": 15 * 10**8, "power": 7}},
    )
    told = of_one(before, after, interval_s=None)
    assert disturbance(told) == ("GPU 0: clocks held down by thermal for 50% of 1.0 s",)


def test_that_clocks_could_not_be_asked_is_not_that_they_were_free():
    assert figures(of_one({}, {})).gpus[0].throttled_s is None
    assert disturbance(of_one({}, {})) == ()


def test_another_process_on_a_gpu_is_named():
    told = of_one({"processes": {}}, {"processes": {1: "own", 77: "other"}}, names={77: "gmx"})
    assert disturbance(told) == ("GPU 0: used by another process too: pid 77 (gmx)",)
    assert disturbance(replace(told, names={})) == ("GPU 0: used by another process too: pid 77 (name not readable)",)


def test_this_runs_own_processes_are_no_disturbance():
    assert figures(of_one({"processes": {}}, {"processes": {1: "own"}})).gpus[0].others == ()


def test_a_containers_own_numbers_are_not_taken_for_strangers():
    # The ranks come and go between the first and the last reading, under numbers nobody knows.
    told = of_one({"processes": {}}, {"processes": {5: "unknown"}}, {"processes": {}})
    assert figures(told).gpus[0].others is None
    assert disturbance(told) == ()


def test_an_unknown_process_that_was_there_all_the_time_is_anothers():
    told = of_one(
        {"processes": {6: "unknown"}}, {"processes": {5: "unknown", 6: "unknown"}}, {"processes": {6: "unknown"}}
    )
    assert figures(told).gpus[0].others == ("pid 6 (name not readable)",)


def test_an_unknown_process_beside_recognised_ones_is_anothers():
    told = of_one({"processes": {}}, {"processes": {1: "own", 6: "unknown"}})
    assert figures(told).gpus[0].others == ("pid 6 (name not readable)",)


def test_of_a_slice_no_energy_and_no_strangers_are_told():
    told = of_one({"energy_mj": 0, "processes": {8: "other"}}, {"energy_mj": 9, "processes": {8: "other"}})
    told = replace(told, gpus=(GpuFacts(uuid="GPU-0", name="Made", sliced=True),))
    assert figures(told).gpus[0].energy is None
    assert figures(told).gpus[0].others is None


def test_other_load_is_what_the_ranks_did_not_use():
    told = of_cores(processes=90, own=50, idle=10)
    assert figures(told).cpu.utilisation == {3: pytest.approx(0.9)}
    assert figures(told).cpu.others == pytest.approx(0.4)
    assert disturbance(told) == ("other processes took 40% of the ranks' cores (limit 10%)",)


def test_a_few_ticks_of_others_are_let_through():
    assert disturbance(of_cores(processes=55, own=50, idle=45)) == ()


def test_more_of_its_own_than_the_cores_ran_is_no_negative_load():
    assert figures(of_cores(processes=50, own=60, idle=50)).cpu.others == 0


def test_time_the_hypervisor_gave_away_is_told():
    told = of_cores(processes=50, own=50, idle=20, stolen=30)
    assert disturbance(told) == ("the hypervisor took 30% of the ranks' cores (limit 10%)",)


def test_counters_that_stand_still_tell_nothing():
    found = figures(of_cores(processes=0, own=50, idle=0))
    assert found.cpu.utilisation is None
    assert found.cpu.others is None
    assert disturbance(of_cores(processes=0, own=50, idle=0)) == ()


def test_no_readings_give_no_figures():
    assert figures(made_telemetry()).cpu.energy is None
    assert disturbance(made_telemetry()) == ()
    assert figures(of_one({"energy_mj": 1, "reasons": 4})).gpus[0].energy is None


def test_without_a_driver_joules_of_an_image_are_not_those_of_the_processor():
    told = of_zone(0, 5_000_000, measured=Measured(begin_s=0, end_s=1, images=5))
    assert figures(told).joules_per_image == pytest.approx(1)
    assert figures(replace(told, missing={"GPUs": "Driver Not Loaded"})).joules_per_image is None


def test_a_stored_record_comes_back_the_same():
    told = of_one({"processes": {1: "own"}, "violation_ns": {"power": 1}}, {"energy_mj": 7})
    told = replace(told, measured=Measured(begin_s=0, end_s=1, images=5))
    adapter = TypeAdapter(Telemetry)
    assert adapter.validate_python(adapter.dump_python(told, mode="json")) == told
    assert adapter.validate_json(adapter.dump_json(told)) == told
