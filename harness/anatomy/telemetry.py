"""What a machine's readings say of a case: how busy it was, what energy it took, and whether anything disturbed it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal

from harness.gate.observations import Process, observe
from harness.records.samples import Samples
from harness.records.telemetry import GpuReading, Reading, Telemetry

REASONS = {
    0x04: "power cap",
    0x08: "hardware slow-down",
    0x20: "heat (driver)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
"""NVML's `nvmlClocksEventReason*` that hold clocks down against the user's will. Left out are an idle GPU and clocks
that the user set for applications, the display or a group of GPUs: they are what was asked for, alike in every run."""

MOST_THROTTLED = 0.01
"""Share of the time that clocks may be held down before a timing is not to be trusted."""
MOST_OTHERS = 0.1
"""Share of the ranks' cores that others may take: the kernel's own threads and the counting in ticks make a few
percent on a machine where nothing else runs."""
_LEAST_SPAN = 0.5
"""Share of the measured time that readings must span for a mean power of it."""
_MOST_W = 1000.0
"""Of one processor package; a counter that could have begun anew twice between two readings tells nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of one figure over the readings."""

    mean: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What a device took over the measured time."""

    joules: float
    source: Literal["energy counter", "power samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFigures:
    """One GPU over the measured time; None is not known."""

    utilisation: Spread | None
    """Shares of the time in which any kernel ran: not how well it was used."""
    memory_used_bytes: Spread | None
    power_w: Spread | None
    temperature_c: Spread | None
    sm_clock_mhz: Spread | None
    memory_clock_mhz: Spread | None
    throttled_s: dict[str, float] | None
    """Seconds by reason; several may hold at once."""
    energy: Energy | None
    others: tuple[str, ...] | None
    """Processes of other runs that had a compute context on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFigures:
    """The ranks' cores over the measured time."""

    utilisation: dict[int, float] | None
    """By core."""
    others: float | None
    """Share of the cores' time that processes of other runs had; those of this run are taken as all on these cores."""
    stolen: float | None
    """Share that the hypervisor gave away."""
    memory_used_bytes: Spread | None
    """Of the machine."""
    energy: Energy | None
    """Of the processor packages and their memory as a whole, idle cores included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One case."""

    seconds: float
    """Of the measured time."""
    gpus: tuple[GpuFigures, ...]
    cpu: CpuFigures
    joules_per_image: float | None
    """Of the GPUs; without GPUs, of the processor."""


def figures(telemetry: Telemetry) -> Figures:
    """Return what the readings say of the measured time."""
    readings, seconds, sampled = _within(telemetry)
    gpus = tuple(_gpu(telemetry, readings, seconds, number, sampled=sampled) for number in range(len(telemetry.gpus)))
    cpu = _cpu(telemetry, readings, seconds, sampled=sampled)
    energies = [gpu.energy for gpu in gpus] if gpus or "GPUs" in telemetry.missing else [cpu.energy]
    joules = [energy.joules for energy in energies if energy is not None]
    images = telemetry.measured.images if telemetry.measured else 0
    known = images > 0 and len(joules) == len(energies) > 0
    return Figures(seconds=seconds, gpus=gpus, cpu=cpu, joules_per_image=sum(joules) / images if known else None)


def observed(samples: Samples) -> Process:
    """Return a process of the time layer as the gate judges it, with what disturbed it by its readings."""
    return observe(samples, lambda one: disturbance(one.watched) if one.watched else ())


def disturbance(telemetry: Telemetry) -> tuple[str, ...]:
    """Return why a timing must not be gated, a sentence each; none where nothing is known to have disturbed it."""
    found = figures(telemetry)
    told = []
    for number, gpu in enumerate(found.gpus):
        for reason, seconds in (gpu.throttled_s or {}).items():
            share = min(1.0, seconds / found.seconds) if found.seconds else 0.0
            if share > MOST_THROTTLED:
                told.append(f"GPU {number}: clocks held down by {reason} for {share:.0%} of {found.seconds:.1f} s")
        if gpu.others:
            told.append(f"GPU {number}: used by another process too: {', '.join(gpu.others)}")
    for lost, who in ((found.cpu.others, "other processes"), (found.cpu.stolen, "the hypervisor")):
        # Where GPUs compute, a core is not what ranks wait for.
        if lost is not None and lost > MOST_OTHERS and not telemetry.gpus:
            told.append(f"{who} took {lost:.0%} of the ranks' cores (limit {MOST_OTHERS:.0%})")
    return tuple(told)


def _within(telemetry: Telemetry) -> tuple[Sequence[Reading], float, bool]:
    """Return the readings that are of the measured time, its seconds, and whether they were made in it.

    Where fewer than two fall into it, as with those before and after alone, they are all: what counters then tell is
    at most too much for the measured time.
    """
    readings, measured = telemetry.readings, telemetry.measured
    if measured is None:
        span_s = readings[-1].at_s - readings[0].at_s if readings else 0.0
        return readings, span_s, telemetry.interval_s is not None
    inside = [reading for reading in readings if measured.begin_s <= reading.at_s <= measured.end_s]
    sampled = len(inside) > 1
    return inside if sampled else readings, measured.end_s - measured.begin_s, sampled


def _gpu(
    telemetry: Telemetry, readings: Sequence[Reading], seconds: float, number: int, *, sampled: bool
) -> GpuFigures:
    own = [reading.gpus[number] for reading in readings if len(reading.gpus) > number]

    def spread(figure: Callable[[GpuReading], float | None]) -> Spread | None:
        # What was read before and after tells nothing of the time between.
        return _spread(map(figure, own)) if sampled else None

    sliced = telemetry.gpus[number].sliced
    return GpuFigures(
        utilisation=spread(lambda gpu: _scaled(gpu.utilisation_percent, 1e-2)),
        memory_used_bytes=spread(lambda gpu: gpu.memory_used_bytes),
        power_w=spread(lambda gpu: _scaled(gpu.power_mw, 1e-3)),
        temperature_c=spread(lambda gpu: gpu.temperature_c),
        sm_clock_mhz=spread(lambda gpu: gpu.sm_clock_mhz),
        memory_clock_mhz=spread(lambda gpu: gpu.memory_clock_mhz),
        throttled_s=_throttled_s(readings, own, sampled=sampled),
        # Slices share the power of the card and are used by others rightly.
        energy=_gpu_energy(readings, own, seconds) if sampled and not sliced else None,
        others=None if sliced else _others(telemetry, number),
    )


def _throttled_s(readings: Sequence[Reading], own: Sequence[GpuReading], *, sampled: bool) -> dict[str, float] | None:
    """Return seconds by reason: those of the driver's counters, and where readings were many, of what they saw."""
    if not own:
        return None
    found = {
        policy.replace("_", " "): (own[-1].violation_ns[policy] - before) * 1e-9
        for policy, before in own[0].violation_ns.items()
        if policy in own[-1].violation_ns
    }
    told = bool(found)
    if sampled:
        for (reading, after), gpu in zip(pairwise(readings), own, strict=False):
            if gpu.reasons is None:
                continue
            told = True
            for bit, reason in REASONS.items():
                if gpu.reasons & bit:
                    found[reason] = found.get(reason, 0.0) + after.at_s - reading.at_s
    return {reason: seconds for reason, seconds in found.items() if seconds > 0} if told else None


def _gpu_energy(readings: Sequence[Reading], own: Sequence[GpuReading], seconds: float) -> Energy | None:
    span_s = readings[-1].at_s - readings[0].at_s if readings else 0.0
    if not own or span_s < _LEAST_SPAN * seconds or not span_s:
        return None
    first, last = own[0].energy_mj, own[-1].energy_mj
    # The counter begins anew when the driver is loaded.
    if first is not None and last is not None and last > first:
        return Energy(joules=(last - first) * 1e-3 * seconds / span_s, source="energy counter")
    powers = [gpu.power_mw for gpu in own]
    joules = 0.0
    for (before, after), (a, b) in zip(pairwise(readings), pairwise(powers), strict=True):
        if a is None or b is None:
            return None
        joules += (a + b) / 2 * 1e-3 * (after.at_s - before.at_s)
    return Energy(joules=joules * seconds / span_s, source="power samples")


def _others(telemetry: Telemetry, number: int) -> tuple[str, ...] | None:
    """Return the processes of other runs, over all readings; None where they cannot be told from this run's.

    Inside a container the driver may name processes by the numbers they have outside. Then one is another's if this
    run's own are recognised, or if it was there before the ranks started and after they ended.
    """
    seen = [reading.gpus[number].processes for reading in telemetry.readings if len(reading.gpus) > number]
    lists = [processes for processes in seen if processes is not None]
    if not lists or len(lists) < len(seen):
        return None
    recognised = any("own" in processes.values() for processes in lists)
    found: dict[int, None] = {}
    unsure = False
    for processes in lists:
        for pid, whose in processes.items():
            if whose == "other" or (whose == "unknown" and (recognised or all(pid in other for other in lists))):
                found[pid] = None
            unsure |= whose == "unknown" and not recognised
    if unsure and not found:
        return None
    return tuple(f"pid {pid} ({telemetry.names.get(pid, 'name not readable')})" for pid in found)


def _cpu(telemetry: Telemetry, readings: Sequence[Reading], seconds: float, *, sampled: bool) -> CpuFigures:
    first, last = (readings[0], readings[-1]) if len(readings) > 1 else (None, None)
    utilisation, others, stolen = None, None, None
    if first and last and first.cores and last.cores and first.cores.keys() == last.cores.keys():
        ran, taken, whole, busy = 0, 0, 0, {}
        for core, before in first.cores.items():
            after = last.cores[core]
            used = after.processes - before.processes + after.interrupts - before.interrupts
            total = used + after.stolen - before.stolen + after.idle - before.idle
            busy[core] = used / total if total > 0 else 0.0
            ran += after.processes - before.processes
            taken += after.stolen - before.stolen
            whole += total
        # Some sandboxes show counters that stand still.
        if whole > 0:
            utilisation, stolen = busy, max(0.0, taken / whole)
            if first.own_ticks is not None and last.own_ticks is not None:
                others = max(0.0, (ran - (last.own_ticks - first.own_ticks)) / whole)
    total_bytes = telemetry.memory_total_bytes
    used_bytes = (
        None if total_bytes is None or r.memory_available_bytes is None else total_bytes - r.memory_available_bytes
        for r in readings
    )
    return CpuFigures(
        utilisation=utilisation,
        others=others,
        stolen=stolen,
        memory_used_bytes=_spread(used_bytes) if sampled else None,
        energy=_cpu_energy(telemetry, readings, seconds) if sampled else None,
    )


def _cpu_energy(telemetry: Telemetry, readings: Sequence[Reading], seconds: float) -> Energy | None:
    span_s = readings[-1].at_s - readings[0].at_s if readings else 0.0
    if not telemetry.zones or span_s < _LEAST_SPAN * seconds or not span_s:
        return None
    joules = 0.0
    for number, zone in enumerate(telemetry.zones):
        for before, after in pairwise(readings):
            a, b = before.zones_uj[number], after.zones_uj[number]
            if a is None or b is None or (after.at_s - before.at_s) * _MOST_W > zone.range_uj * 1e-6:
                return None
            joules += (b - a if b >= a else b - a + zone.range_uj) * 1e-6
    return Energy(joules=joules * seconds / span_s, source="energy counter")


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(mean=fmean(known), most=max(known)) if known else None


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor
