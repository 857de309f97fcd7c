"""Readings hold what counters gave, None with the reason for what could not be read, and cost is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from harness.machine.sampling import Sources, window


class NVMLError(Exception):
    pass


class NotSupported(NVMLError):
    def __str__(self):
        return "Not Supported"


def _refuse(*_):
    raise NotSupported


class Nvml:
    """Two GPUs that NVML could have; what a test says is refused raises NVML's error."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1
    NVML_PERF_POLICY_BOARD_LIMIT, NVML_PERF_POLICY_RELIABILITY = 3, 5

    def __init__(self, *, refused=(), pids=(), sliced=False):
        self.pids = pids
        self.sliced = sliced
        self.opened = 0
        for name in refused:
            setattr(self, name, _refuse)

    def nvmlInit(self):  # noqa: N802
        self.opened += 1

    def nvmlShutdown(self):  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return uuid

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return b"Made GPU"

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        return [int(self.sliced), int(self.sliced)]

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        return SimpleNamespace(gpu=50, memory=10)

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(used=2**30)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        return 100_000

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        return 60

    def nvmlDeviceGetClockInfo(self, handle, clock):  # noqa: N802
        return {1: 1500, 2: 8000}[clock]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):  # noqa: N802
        return 0x04

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        return 5_000_000

    def nvmlDeviceGetViolationStatus(self, handle, policy):  # noqa: N802
        if policy == 3:
            raise NotSupported
        return SimpleNamespace(violationTime=10**9 * policy)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.pids]


def _stat(pid, parent, ticks, name="python"):
    times = " ".join(map(str, ticks))
    return f"{pid} ({name}) S {parent} 0 0 0 0 0 0 0 0 0 {times} 20 0 1 0 0\n"


@pytest.fixture
def machine(tmp_path):
    """Folders like /proc and /sys/class/powercap: this run is this process, a child and a grandchild."""
    proc, powercap = tmp_path / "proc", tmp_path / "powercap"
    me = os.getpid()
    processes = {
        me: _stat(me, 1, (10, 5, 100, 50)),
        9_000_001: _stat(9_000_001, me, (20, 0, 0, 0), "a ) ( name"),
        9_000_002: _stat(9_000_002, 9_000_001, (30, 0, 0, 0)),
        9_000_003: _stat(9_000_003, 1, (7777, 0, 0, 0)),
    }
    for pid, text in processes.items():
        (proc / str(pid)).mkdir(parents=True)
        (proc / str(pid) / "stat").write_text(text)
        (proc / str(pid) / "comm").write_text(f"name of {pid}\n")
    (proc / "stat").write_text(
        "cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 100 20 30 400 5 6 7 8 0 0\ncpu1 1 2 3 4 5 6 7 8 0 0\nintr 1\n"
    )
    (proc / "meminfo").write_text("MemTotal:  2048 kB\nMemAvailable:  1024 kB\n")
    for name, title in {
        "intel-rapl": None,
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "psys",
        "intel-rapl-mmio:0": "package-0",
    }.items():
        (powercap / name).mkdir(parents=True)
        if title:
            (powercap / name / "name").write_text(title + "\n")
            (powercap / name / "max_energy_range_uj").write_text("262143328850\n")
            (powercap / name / "energy_uj").write_text("1234\n")
    return proc, powercap


def _read(machine, nvml=None, **over):
    proc, powercap = machine
    gpus = ("GPU-a", "GPU-b") if nvml else ()
    options = {"gpus": gpus, "cores": (0,), "interval_s": None} | over
    with window(sources=Sources(nvml=nvml, proc=proc, powercap=powercap), **options) as made:
        pass
    return made.telemetry


def test_two_readings_hold_the_kernels_counters_of_the_ranks_cores(machine):
    told = _read(machine)
    assert len(told.readings) == 2
    assert told.interval_s is None
    (core,) = told.readings[0].cores.items()
    assert core[0] == 0
    assert (core[1].processes, core[1].interrupts, core[1].stolen, core[1].idle) == (150, 13, 8, 405)
    assert told.memory_total_bytes == 2 * 2**20
    assert told.readings[0].memory_available_bytes == 2**20
    assert told.missing == {}


def test_cpu_time_is_that_of_this_process_and_its_descendants_ended_ones_too(machine):
    assert _read(machine).readings[0].own_ticks == 165 + 20 + 30


def test_energy_counts_packages_and_their_memory_once(machine):
    told = _read(machine)
    assert [zone.name for zone in told.zones] == ["package-0", "dram"]
    assert told.zones[0].range_uj == 262143328850
    assert told.readings[1].zones_uj == (1234, 1234)


def test_a_counter_that_is_only_roots_says_so(machine):
    counter = machine[1] / "intel-rapl:0" / "energy_uj"
    counter.unlink()
    counter.symlink_to("/proc/1/no/such")  # as root every file is readable, so its absence stands for it
    told = _read(machine)
    assert told.readings[0].zones_uj == (None, 1234)
    assert told.missing == {"energy of intel-rapl:0": "no such counter"}


def test_without_counters_of_energy_the_reason_is_told(machine, tmp_path):
    told = _read((machine[0], tmp_path / "none"))
    assert told.zones == ()
    assert "no such counter" in told.missing["energy of the processor"]


def test_without_a_table_of_processes_nothing_is_made_up(tmp_path):
    told = _read((tmp_path / "proc", tmp_path / "powercap"))
    assert told.readings[0].cores is None
    assert told.readings[0].own_ticks is None
    assert told.readings[0].memory_available_bytes is None
    assert {"utilisation of cores", "CPU time of processes", "MemTotal"} <= told.missing.keys()


def test_every_figure_of_a_gpu_is_read(machine):
    nvml = Nvml(pids=(9_000_002, 9_000_003, 4_000_000))
    told = _read(machine, nvml)
    assert [gpu.uuid for gpu in told.gpus] == ["GPU-a", "GPU-b"]
    assert told.gpus[0].name == "Made GPU"
    assert not told.gpus[0].sliced
    gpu = told.readings[0].gpus[1]
    assert (gpu.utilisation_percent, gpu.power_mw, gpu.temperature_c) == (50, 100_000, 60)
    assert (gpu.sm_clock_mhz, gpu.memory_clock_mhz, gpu.reasons, gpu.energy_mj) == (1500, 8000, 4, 5_000_000)
    assert gpu.violation_ns == {"power": 0, "thermal": 10**9, "reliability": 5 * 10**9}
    assert gpu.processes == {9_000_002: "own", 9_000_003: "other", 4_000_000: "unknown"}
    assert told.names == {9_000_003: "name of 9000003"}
    assert told.missing["GPU 0 violation_ns of board_limit"] == "Not Supported"
    assert nvml.opened == 0


@pytest.mark.parametrize(
    ("call", "figure"),
    [
        ("nvmlDeviceGetUtilizationRates", "utilisation_percent"),
        ("nvmlDeviceGetMemoryInfo", "memory_used_bytes"),
        ("nvmlDeviceGetPowerUsage", "power_mw"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetClockInfo", "sm_clock_mhz"),
        ("nvmlDeviceGetCurrentClocksEventReasons", "reasons"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_mj"),
        ("nvmlDeviceGetComputeRunningProcesses", "processes"),
    ],
)
def test_what_a_gpu_does_not_tell_is_none_with_nvmls_reason_and_the_rest_is_read(machine, call, figure):
    told = _read(machine, Nvml(refused=(call,)))
    gpu = told.readings[0].gpus[0]
    assert getattr(gpu, figure) is None
    assert told.missing[f"GPU 0 {figure}"] == "Not Supported"
    others = {"utilisation_percent", "power_mw", "energy_mj", "processes"} - {figure}
    assert all(getattr(gpu, other) is not None for other in others)


def test_a_driver_that_is_not_there_is_told_and_hides_nothing_else(machine):
    told = _read(machine, Nvml(refused=("nvmlInit",)))
    assert told.gpus == ()
    assert told.missing["GPUs"] == "Not Supported"
    assert told.readings[0].cores


def test_slices_and_gpus_without_such_a_mode_are_told_apart(machine):
    assert _read(machine, Nvml(sliced=True)).gpus[0].sliced
    assert not _read(machine, Nvml(refused=("nvmlDeviceGetMigMode",))).gpus[0].sliced


def test_the_thread_reads_in_between_and_ends_when_the_block_fails(machine):
    proc, powercap = machine
    with (
        pytest.raises(RuntimeError, match="the case"),
        window(cores=(0,), interval_s=0.01, sources=Sources(proc=proc, powercap=powercap)) as made,
    ):
        deadline = time.monotonic() + 30
        while len(made.telemetry.readings) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        raise RuntimeError("the case")
    told = made.telemetry
    assert len(told.readings) >= 5
    times = [reading.at_s for reading in told.readings]
    assert times == sorted(times)
    assert told.cost_s > 0
    time.sleep(0.05)
    assert len(made.telemetry.readings) == len(told.readings)


def test_this_machine_can_be_read():
    with window(interval_s=None) as made:
        pass
    assert made.telemetry.readings[0].own_ticks is not None
    assert set(made.telemetry.readings[0].cores) <= set(range(os.cpu_count()))


def test_the_time_of_a_child_that_has_ended_is_this_runs_own():
    code = "import time\nwhile time.process_time() < 0.5: pass"
    with window(interval_s=None) as made:
        subprocess.run([sys.executable, "-c", code], check=True)
    first, last = made.telemetry.readings
    assert last.own_ticks - first.own_ticks >= 0.4 * made.telemetry.ticks_per_s
