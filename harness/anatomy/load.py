"""How busy a case kept the machine and what power it drew, each as one number of all devices; None is not known."""

from __future__ import annotations

from statistics import fmean

from harness.anatomy.telemetry import figures
from harness.records.telemetry import Telemetry


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
