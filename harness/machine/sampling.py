"""Reads GPUs, cores and energy counters while the ranks of a case run, from a thread of the parent process.

A reading asks NVML for each GPU and reads `/proc` and `/sys/class/powercap`; psutil is not asked, since it tells cores
without their numbers. Timed runs are read before and after alone. The thread stays off the ranks' cores where there
are others, and counts the CPU time it takes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records.telemetry import CoreReading, GpuFacts, GpuReading, Reading, Telemetry, Whose, Zone
from harness.stored.escaping import escaped

INTERVAL_S = 0.25
"""NVML's own figures change 1 to 6 times a second, its energy counter some 10 to 50 times."""

_POLICIES = {
    "power": "NVML_PERF_POLICY_POWER",
    "thermal": "NVML_PERF_POLICY_THERMAL",
    "board_limit": "NVML_PERF_POLICY_BOARD_LIMIT",
    "reliability": "NVML_PERF_POLICY_RELIABILITY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where readings come from."""

    nvml: Any = None
    """A module like `pynvml`, which None imports."""
    proc: Path = Path("/proc")
    powercap: Path = Path("/sys/class/powercap")


class Window:
    """Readings while its block runs; `telemetry` has them when it is over."""

    def __init__(self, *, gpus: Sequence[str], cores: Sequence[int], interval_s: float | None, sources: Sources):
        self._missing: dict[str, str] = {}
        self._interval_s = interval_s
        self._cores = frozenset(cores)
        self._gpus = _Gpus(gpus, sources, self._missing)
        self._machine = _Machine(self._cores, sources, self._missing)
        self._readings: list[Reading] = []
        self._cost_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sampling", daemon=True)

    @property
    def telemetry(self) -> Telemetry:
        """What was read."""
        return Telemetry(
            interval_s=self._interval_s,
            ticks_per_s=os.sysconf("SC_CLK_TCK"),
            memory_total_bytes=self._machine.memory_bytes("MemTotal"),
            gpus=self._gpus.facts,
            zones=self._machine.zones,
            readings=tuple(self._readings),
            names=dict(self._gpus.names),
            missing=dict(self._missing),
            cost_s=self._cost_s,
        )

    def open(self) -> None:
        """Make the first reading and start the thread, if there are to be more than two."""
        self._gpus.open()
        self._read()
        if self._interval_s is not None:
            self._thread.start()

    def close(self) -> None:
        """Make the last reading."""
        if self._interval_s is not None:
            self._over.set()
            self._thread.join()
        self._read()
        self._gpus.close()

    def _loop(self) -> None:
        assert self._interval_s is not None
        if elsewhere := os.sched_getaffinity(0) - self._cores:
            os.sched_setaffinity(0, elsewhere)  # of this thread alone
        while not self._over.wait(self._interval_s):
            self._read()

    def _read(self) -> None:
        began = time.thread_time()
        at_s = time.monotonic()
        family = self._machine.family()
        reading = Reading(
            at_s=at_s,
            gpus=self._gpus.read(family),
            cores=self._machine.cores(),
            own_ticks=sum(family.own.values()) if family else None,
            memory_available_bytes=self._machine.memory_bytes("MemAvailable"),
            zones_uj=self._machine.energy(),
        )
        self._readings.append(reading)
        self._cost_s += time.thread_time() - began


@contextlib.contextmanager
def window(
    *,
    gpus: Sequence[str] = (),
    cores: Sequence[int] = (),
    interval_s: float | None = INTERVAL_S,
    sources: Sources | None = None,
) -> Iterator[Window]:
    """Read the machine while the block runs.

    Args:
        gpus: UUIDs of the GPUs that the ranks use.
        cores: cores that the ranks are pinned to; none means all that this process may run on.
        interval_s: seconds between readings; None reads before and after alone.
        sources: where to read.
    """
    made = Window(
        gpus=gpus,
        cores=cores or sorted(os.sched_getaffinity(0)),
        interval_s=interval_s,
        sources=sources or Sources(),
    )
    made.open()
    try:
        yield made
    finally:
        made.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    own: dict[int, int]
    """Ticks of CPU time of each process of this run, its ended children included."""
    known: frozenset[int]
    """Every process of the table."""

    def whose(self, pid: int) -> Whose:
        if pid in self.own:
            return "own"
        return "other" if pid in self.known else "unknown"


class _Machine:
    """Cores, memory, processes and energy counters, as the kernel tells."""

    def __init__(self, cores: frozenset[int], sources: Sources, missing: dict[str, str]) -> None:
        self._cores = cores
        self._proc = sources.proc
        self._missing = missing
        self._counters: list[Path] = []
        zones = []
        for folder in self._zone_folders(sources.powercap):
            try:
                name = (folder / "name").read_text().strip()
                # A package holds its core and uncore, psys holds all; its memory counts beside it.
                if name.startswith("package") or name == "dram":
                    zones.append(Zone(name=name, range_uj=int((folder / "max_energy_range_uj").read_text())))
                    self._counters.append(folder / "energy_uj")
            except (OSError, ValueError) as error:
                missing[f"energy of {folder.name}"] = _why(error)
        self.zones = tuple(zones)
        if not zones:
            missing.setdefault("energy of the processor", f"no such counter under {sources.powercap}")

    @staticmethod
    def _zone_folders(root: Path) -> list[Path]:
        # The same package may show a second time as intel-rapl-mmio.
        return sorted(root.glob("intel-rapl:*")) if root.is_dir() else []

    def energy(self) -> tuple[int | None, ...]:
        return tuple(self._number(counter) for counter in self._counters)

    def _number(self, counter: Path) -> int | None:
        try:
            return int(counter.read_text())
        except (OSError, ValueError) as error:
            self._missing[f"energy of {counter.parent.name}"] = _why(error)
            return None

    def cores(self) -> dict[int, CoreReading] | None:
        found = {}
        try:
            for line in (self._proc / "stat").read_text().splitlines():
                name, *fields = line.split()
                if name.startswith("cpu") and name != "cpu" and int(name[3:]) in self._cores:
                    user, nice, system, idle, waiting, hard, soft, stolen = map(int, fields[:8])
                    found[int(name[3:])] = CoreReading(
                        processes=user + nice + system, interrupts=hard + soft, stolen=stolen, idle=idle + waiting
                    )
        except (OSError, ValueError) as error:
            self._missing["utilisation of cores"] = _why(error)
            return None
        return found

    def memory_bytes(self, key: str) -> int | None:
        try:
            for line in (self._proc / "meminfo").read_text().splitlines():
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
        except (OSError, ValueError) as error:
            self._missing[key] = _why(error)
        return None

    def family(self) -> _Family | None:
        """Return this process and its descendants, with their CPU time."""
        parent, ticks = {}, {}
        try:
            for entry in os.scandir(self._proc):
                if not entry.name.isdigit():
                    continue
                try:
                    # The name stands in brackets and may hold any character.
                    fields = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()
                    parent[int(entry.name)] = int(fields[1])
                    ticks[int(entry.name)] = sum(map(int, fields[11:15]))
                except (OSError, ValueError, IndexError):
                    continue  # it ended meanwhile
        except OSError as error:
            self._missing["CPU time of processes"] = _why(error)
            return None
        own = {os.getpid()} & parent.keys()
        if not own:
            self._missing["CPU time of processes"] = "this process is not in the table of processes"
            return None
        while more := {pid for pid, of in parent.items() if of in own} - own:
            own |= more
        return _Family(own={pid: ticks[pid] for pid in own}, known=frozenset(parent))


class _Gpus:
    """GPUs, as NVML tells; a figure that one does not have is None, with NVML's reason."""

    def __init__(self, uuids: Sequence[str], sources: Sources, missing: dict[str, str]) -> None:
        self._uuids = uuids
        self._nvml = sources.nvml
        self._proc = sources.proc
        self._missing = missing
        self._handles: list[Any] = []
        self._open = False
        self.facts: tuple[GpuFacts, ...] = ()
        self.names: dict[int, str] = {}

    def open(self) -> None:
        if not self._uuids:
            return
        if self._nvml is None:
            import pynvml

            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
            self._open = True
            self._handles = [self._nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in self._uuids]
        except self._nvml.NVMLError as error:
            self._missing["GPUs"] = _why(error)
            return
        self.facts = tuple(
            GpuFacts(uuid=uuid, name=self._name(handle), sliced=self._sliced(handle))
            for uuid, handle in zip(self._uuids, self._handles, strict=True)
        )

    def close(self) -> None:
        if self._open:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def read(self, family: _Family | None) -> tuple[GpuReading, ...]:
        return tuple(self._one(f"GPU {number}", handle, family) for number, handle in enumerate(self._handles))

    def _one(self, gpu: str, handle: Any, family: _Family | None) -> GpuReading:
        nvml = self._nvml
        asked: dict[str, Callable[[], Any]] = {
            "utilisation_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            "memory_used_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
            "power_mw": lambda: nvml.nvmlDeviceGetPowerUsage(handle),
            "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "reasons": lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
            "energy_mj": lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle),
        }
        told = {name: self._ask(f"{gpu} {name}", ask) for name, ask in asked.items()}
        violations = {
            policy: self._ask(
                f"{gpu} violation_ns of {policy}",
                lambda constant=constant: (
                    nvml.nvmlDeviceGetViolationStatus(  # type: ignore[misc]
                        handle, getattr(nvml, constant)
                    ).violationTime
                ),
            )
            for policy, constant in _POLICIES.items()
        }
        running = self._ask(f"{gpu} processes", lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        return GpuReading(
            violation_ns={policy: time_ns for policy, time_ns in violations.items() if time_ns is not None},
            processes=None if running is None or family is None else self._whose(running, family),
            **told,
        )

    def _ask(self, what: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._nvml.NVMLError as error:
            self._missing[what] = _why(error)
            return None

    def _whose(self, running: Sequence[Any], family: _Family) -> dict[int, Whose]:
        found = {int(process.pid): family.whose(int(process.pid)) for process in running}
        for pid, whose in found.items():
            if whose != "own" and pid not in self.names:
                with contextlib.suppress(OSError):
                    # A process may call itself what steers a terminal.
                    self.names[pid] = escaped((self._proc / str(pid) / "comm").read_text(errors="replace").strip())
        return found

    def _name(self, handle: Any) -> str | None:
        name = self._ask("names of GPUs", lambda: self._nvml.nvmlDeviceGetName(handle))
        return name.decode() if isinstance(name, bytes) else name

    def _sliced(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(handle)[0])
        except self._nvml.NVMLError:
            return False  # what has no such mode is not cut


def _why(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "not readable by this user"
    if isinstance(error, FileNotFoundError):
        return "no such counter"
    return str(error) or type(error).__name__
