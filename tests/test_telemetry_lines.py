"""The lines about the machine: what is known in a table, what is not with its reason, what disturbed a case."""

from __future__ import annotations

from harness.case import Case
from harness.records.telemetry import Measured
from harness.report.telemetry import render
from tests.test_telemetry import of_cores, of_gpus, of_one

CASE = Case.parse("resnet18-ddp-2gpu-bs8")
FULL = {
    "utilisation_percent": 40,
    "memory_used_bytes": 3 * 2**30,
    "power_mw": 90_000,
    "temperature_c": 61,
    "sm_clock_mhz": 1500,
    "reasons": 0,
}


def _lines(telemetry) -> list[str]:
    return list(render({CASE: telemetry}))


def test_without_telemetry_nothing_is_said():
    assert list(render({})) == []


def test_a_gpu_case_shows_use_memory_power_heat_clock_and_energy():
    rows = ([FULL | {"energy_mj": 0}] * 2, [FULL | {"energy_mj": 90_000}] * 2)
    head, _, row, *rest = _lines(of_gpus(*rows, measured=Measured(begin_s=0, end_s=1, images=60)))
    assert head.split()[:4] == ["resnet18", "busy", "memory", "power"]
    assert row.split() == ["ddp-2gpu-bs8", "40%", "3.00", "GiB", "180", "W", "61", "C", "1500", "MHz", "0.0", "s", "3"]
    assert "  energy from energy counter" in rest


def test_figures_of_one_gpu_alone_are_not_shown_for_both():
    _, _, row, *_ = _lines(of_gpus([FULL, {}], [FULL, {}]))
    assert row.split()[1:] == ["n/a"] * 7


def test_what_is_missing_is_told_once_with_its_reason_and_the_cases():
    told = of_one({}, {}, missing={"GPU 0 power_mw": "Not Supported", "GPU 0 energy_mj": "Not Supported"})
    lines = list(render({CASE: told, Case.parse("resnet18-ddp-4gpu-bs8"): told}))
    assert "n/a: GPU 0 power_mw, GPU 0 energy_mj: Not Supported (2 cases)" in lines


def test_a_disturbed_case_says_so():
    lines = _lines(of_cores(processes=90, own=50, idle=10))
    assert any(line.startswith("  ddp-2gpu-bs8: other processes took 40% of the ranks' cores") for line in lines)
    assert lines[2].split()[1:] == ["90%", "40%", "0%", "n/a", "n/a", "n/a"]


def test_its_own_cost_is_told():
    assert _lines(of_cores(processes=50, own=50, idle=50))[-1] == "reading took at most 1.0% of one core"


def test_tables_fit_into_eighty_columns():
    lines = [*_lines(of_gpus([FULL] * 2, [FULL] * 2)), *_lines(of_cores(processes=9, own=9, idle=9))]
    assert max(map(len, (line for line in lines if not line.startswith("  ")))) <= 80
