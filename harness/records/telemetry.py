"""What the machine itself told while a case ran: raw readings of the GPUs, cores and energy counters, with their times.

Readings are kept as the counters give them, in their units, so that every figure can be derived again. None is what
could not be read; `Telemetry.missing` has the reason.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Whose = Literal["own", "other", "unknown"]
"""Of this run, of another, or of a process that is not in this machine's table: a container has a table of its own."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class GpuReading:
    """One GPU at one moment, as NVML tells."""

    utilisation_percent: int | None = None
    """Share of NVML's last period, 1/6 to 1 s, in which any kernel ran."""
    memory_used_bytes: int | None = None
    """Of the whole device, other processes included."""
    power_mw: int | None = None
    temperature_c: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    reasons: int | None = None
    """Why the clocks are where they are: NVML's bits of `nvmlClocksEventReason*`."""
    violation_ns: dict[str, int] = field(default_factory=dict)
    """Counters of how long clocks were held down, by policy: power, thermal, board_limit, reliability."""
    energy_mj: int | None = None
    """Counter since the driver was loaded, millijoules."""
    processes: dict[int, Whose] | None = None
    """Those with a compute context; what only draws on the screen is left out."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class CoreReading:
    """One core's counters since the machine started, in ticks (proc(5))."""

    processes: int
    """User, nice and system time: processes, this run's and others'."""
    interrupts: int
    stolen: int
    """What the hypervisor gave to another machine."""
    idle: int


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Reading:
    """One moment."""

    at_s: float
    """`time.monotonic()`, one clock for all processes of a machine."""
    gpus: tuple[GpuReading, ...] = ()
    cores: dict[int, CoreReading] | None = None
    """Of the ranks' cores."""
    own_ticks: int | None = None
    """CPU time of this run's processes, those that ended included."""
    memory_available_bytes: int | None = None
    zones_uj: tuple[int | None, ...] = ()
    """Energy counter of each zone."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class GpuFacts:
    """A GPU that was read."""

    uuid: str
    name: str | None
    sliced: bool
    """Whether MIG cuts it into slices, which share its power and its clocks."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Zone:
    """One RAPL counter: a processor package, or its memory."""

    name: str
    range_uj: int
    """It begins anew at 0 after this."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Measured:
    """The part of the time that figures are taken of: steps on all ranks."""

    begin_s: float
    end_s: float
    images: int
    """Trained in it by all ranks together."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Telemetry:
    """Readings from before the ranks of a case started to after they ended."""

    interval_s: float | None
    """Between readings; None where only the first and the last were made."""
    ticks_per_s: int
    memory_total_bytes: int | None
    gpus: tuple[GpuFacts, ...]
    zones: tuple[Zone, ...]
    readings: tuple[Reading, ...]
    names: dict[int, str]
    """Of processes of other runs on the GPUs, as far as readable."""
    missing: dict[str, str]
    """What could not be read, such as `GPU 0 power_mw`, and why."""
    cost_s: float
    """CPU seconds that reading took."""
    measured: Measured | None = None
    """None takes all of it."""
