"""What the machine told while cases ran: how busy it was, its clocks, its energy, and what disturbed it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from harness.anatomy.telemetry import Figures, Spread, disturbance, figures
from harness.case import Case
from harness.records.telemetry import Telemetry
from harness.report.lines import table, wrapped

_NOT_MEASURED = "n/a"
_GPU_HEAD = ("busy", "memory", "power", "hottest", "SM clock", "throttled", "J/image")
_CPU_HEAD = ("cores busy", "others", "stolen", "memory", "energy", "J/image")
_GPU_LEGEND = (
    "busy: share of the time in which any kernel ran; memory: used at most on the fullest GPU; power: mean, all GPUs "
    "together; throttled: clocks held down, the GPU that was most"
)
_CPU_LEGEND = (
    "cores busy, others, stolen: shares of the ranks' cores that were used, by processes of other runs, and by other "
    "virtual machines; memory: used at most on the whole machine; energy: of the whole processor"
)


def render(telemetry: Mapping[Case, Telemetry]) -> Iterator[str]:
    """Yield the lines of the section: a table for each model, what disturbed its cases, and what is n/a and why.

    Args:
        telemetry: of each case that was sampled.
    """
    by_model: dict[str, list[Case]] = defaultdict(list)
    for case in telemetry:
        by_model[case.model].append(case)
    for model, cases in by_model.items():
        derived = {case: figures(telemetry[case]) for case in cases}
        on_gpus = any(found.gpus for found in derived.values())
        head, row, legend = (_GPU_HEAD, _gpu_row, _GPU_LEGEND) if on_gpus else (_CPU_HEAD, _cpu_row, _CPU_LEGEND)
        yield from table([model, *head], [[_short(case), *row(derived[case])] for case in cases], optional=(5, 3))
        yield from wrapped(f"  {legend}")
        for case in cases:
            for reason in disturbance(telemetry[case]):
                yield from wrapped(f"  {_short(case)}: {reason}: its timing is not gated")
        yield from _sources(list(derived.values()))
        yield ""
    yield from _missing(telemetry)
    if telemetry:
        shares = [t.cost_s / (t.readings[-1].at_s - t.readings[0].at_s) for t in telemetry.values() if _spans(t)]
        if shares:
            yield from wrapped(f"reading took at most {max(shares):.1%} of one core")


def _gpu_row(found: Figures) -> list[str]:
    gpus = found.gpus
    powers = [gpu.power_w.mean for gpu in gpus if gpu.power_w]
    throttled = [max(gpu.throttled_s.values(), default=0.0) for gpu in gpus if gpu.throttled_s is not None]
    return [
        _mean([gpu.utilisation for gpu in gpus], lambda share: f"{share:.0%}"),
        _most([gpu.memory_used_bytes for gpu in gpus], lambda size: f"{size / 2**30:.2f} GiB"),
        f"{sum(powers):.0f} W" if powers and len(powers) == len(gpus) else _NOT_MEASURED,
        _most([gpu.temperature_c for gpu in gpus], lambda degrees: f"{degrees:.0f} C"),
        _mean([gpu.sm_clock_mhz for gpu in gpus], lambda clock: f"{clock:.0f} MHz"),
        f"{max(throttled):.1f} s" if throttled and len(throttled) == len(gpus) else _NOT_MEASURED,
        _joules_per_image(found),
    ]


def _cpu_row(found: Figures) -> list[str]:
    cpu = found.cpu
    busy = cpu.utilisation
    return [
        f"{sum(busy.values()) / len(busy):.0%}" if busy else _NOT_MEASURED,
        _share(cpu.others),
        _share(cpu.stolen),
        _most([cpu.memory_used_bytes], lambda size: f"{size / 2**30:.2f} GiB"),
        _NOT_MEASURED if cpu.energy is None else f"{cpu.energy.joules:.0f} J",
        _joules_per_image(found),
    ]


def _sources(derived: Sequence[Figures]) -> Iterator[str]:
    """Say where energies come from."""
    energies = [gpu.energy for found in derived for gpu in found.gpus] or [found.cpu.energy for found in derived]
    if sources := sorted({energy.source for energy in energies if energy is not None}):
        yield f"  energy from {' and '.join(sources)}"


def _missing(telemetry: Mapping[Case, Telemetry]) -> Iterator[str]:
    """Say what could not be read and why, each once."""
    cases: dict[tuple[str, str], int] = defaultdict(int)
    for told in telemetry.values():
        for item in told.missing.items():
            cases[item] += 1
    by_reason: dict[tuple[str, int], list[str]] = defaultdict(list)
    for (what, why), count in cases.items():
        by_reason[why, count].append(what)
    for (reason, count), figure in by_reason.items():
        yield from wrapped(f"n/a: {', '.join(figure)}: {reason} ({count} case{'s' if count > 1 else ''})")


def _joules_per_image(found: Figures) -> str:
    return _NOT_MEASURED if found.joules_per_image is None else f"{found.joules_per_image:.3g}"


def _share(value: float | None) -> str:
    return _NOT_MEASURED if value is None else f"{value:.0%}"


def _mean(spreads: Sequence[Spread | None], show: Callable[[float], str]) -> str:
    known = [spread.mean for spread in spreads if spread]
    return show(sum(known) / len(known)) if known and len(known) == len(spreads) else _NOT_MEASURED


def _most(spreads: Sequence[Spread | None], show: Callable[[float], str]) -> str:
    known = [spread.most for spread in spreads if spread]
    return show(max(known)) if known and len(known) == len(spreads) else _NOT_MEASURED


def _spans(telemetry: Telemetry) -> bool:
    return len(telemetry.readings) > 1 and telemetry.readings[-1].at_s > telemetry.readings[0].at_s


def _short(case: Case) -> str:
    return case.id.removeprefix(f"{case.model}-")
