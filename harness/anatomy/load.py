"""How busy a case kept the machine and what power it drew, each as one number of all devices; None is not known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean

from harness.anatomy.telemetry import figures
from harness.records.telemetry import CoreReading, Reading, Telemetry


def busy_share(telemetry: Telemetry | None) -> float | None:
    """Return the share of the time in which the devices were busy: the mean of the GPUs; without GPUs, of the cores.

    Of a GPU it is the time in which any kernel ran, which says nothing of how well it was used.
    """
    if telemetry is None:
        return None
    found = figures(telemetry)
    if not found.gpus:
        return fmean(found.cpu.utilisation.values()) if found.cpu.utilisation else None
    shares = [gpu.utilisation.mean for gpu in found.gpus if gpu.utilisation]
    return fmean(shares) if len(shares) == len(found.gpus) else None


def power_w(telemetry: Telemetry | None) -> float | None:
    """Return the mean power of all GPUs together, watts; without GPUs, of the processor as a whole."""
    if telemetry is None:
        return None
    found = figures(telemetry)
    if not found.gpus:
        energy = found.cpu.energy
        return energy.joules / found.seconds if energy and found.seconds else None
    powers = [gpu.power_w.mean for gpu in found.gpus if gpu.power_w]
    return sum(powers) if len(powers) == len(found.gpus) else None


def busy_over_time(telemetry: Telemetry | None) -> list[tuple[float, float]]:
    """Return how busy the devices were, as `busy_share` counts it, at each reading of the measured time.

    Of a core it is the share of the time since the reading before; those of the moments are (seconds, share).
    """
    if telemetry is None:
        return []
    begin_s, readings = _measured(telemetry)
    if telemetry.gpus:
        told = ((r.at_s, [gpu.utilisation_percent for gpu in r.gpus]) for r in readings)
        return [(at_s - begin_s, fmean(known) / 100) for at_s, values in told if (known := _all(values))]
    found = []
    for before, after in pairwise(readings):
        ours, theirs = before.cores or {}, after.cores or {}
        shares = [_busy(ours[core], theirs[core]) for core in ours.keys() & theirs.keys()]
        if known := _all(shares):
            found.append((after.at_s - begin_s, fmean(known)))
    return found


def power_over_time(telemetry: Telemetry | None) -> list[tuple[float, float]]:
    """Return the power of all devices together, as `power_w` counts it, at each reading of the measured time.

    Of a processor it is the mean since the reading before; those of the moments are (seconds, watts).
    """
    if telemetry is None:
        return []
    begin_s, readings = _measured(telemetry)
    if telemetry.gpus:
        told = ((r.at_s, [gpu.power_mw for gpu in r.gpus]) for r in readings)
        return [(at_s - begin_s, sum(known) * 1e-3) for at_s, values in told if (known := _all(values))]
    found = []
    for before, after in pairwise(readings):
        pairs = zip(telemetry.zones, before.zones_uj, after.zones_uj, strict=True)
        joules = [None if a is None or b is None else (b - a) % zone.range_uj * 1e-6 for zone, a, b in pairs]
        if (known := _all(joules)) and after.at_s > before.at_s:
            found.append((after.at_s - begin_s, sum(known) / (after.at_s - before.at_s)))
    return found


def _measured(telemetry: Telemetry) -> tuple[float, Sequence[Reading]]:
    """Return when the measured time began and its readings; all of them where they are of no part of the run."""
    measured, readings = telemetry.measured, telemetry.readings
    if telemetry.interval_s is None or not readings:
        return 0.0, ()
    if measured is None:
        return readings[0].at_s, readings
    return measured.begin_s, [one for one in readings if measured.begin_s <= one.at_s <= measured.end_s]


def _busy(before: CoreReading, after: CoreReading) -> float | None:
    used = after.processes - before.processes + after.interrupts - before.interrupts
    total = used + after.stolen - before.stolen + after.idle - before.idle
    return min(1.0, max(0.0, used / total)) if total > 0 else None


def _all(values: Iterable[float | None]) -> list[float]:
    """Return the values where all are known, else none: a mean of some devices is not that of all."""
    told = list(values)
    known = [value for value in told if value is not None]
    return known if len(known) == len(told) else []
