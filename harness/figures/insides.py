"""The figures of what accounted, traced and sampled runs saw: where a step's time and memory went, and the machine.

As with `harness.figures.results`, results are alternatives to each other, and what one lacks is n/a.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.anatomy import budget, communication
from harness.anatomy.load import busy_over_time, power_over_time
from harness.anatomy.memory import STATE, MemoryFigures
from harness.case import Case
from harness.figures.charts import Figure, Series, Stack, lines, stacks
from harness.figures.results import Group, labels
from harness.records.telemetry import Telemetry

_BUDGET = {
    "compute_s": "compute",
    "communication_s": "communication, not hidden",
    "late_s": "waiting for a late rank",
    "data_s": "data",
    "host_s": "host",
    "idle_s": "no core",
    "remainder_s": "not explained",
}
_KEPT = (*STATE, "buffers", "rest")
_MIB = 2**20


def time_budget(group: Group) -> Figure:
    """Return what a step's time was spent on under the profiler, mean over ranks and steps."""
    rows = []
    for name, result in zip(labels(group.results), group.results, strict=True):
        mean = budget.mean(budget.budgets(result.traces)) if result.traces else None
        rows.append(
            Stack(
                label=name,
                values=tuple(_ms(getattr(mean, part)) if mean else None for part in _BUDGET),
                strategy=Case.parse(result.case_id).strategy,
                total=_ms(mean.step_s) if mean else None,
            )
        )
    return stacks(
        name=f"{group.name}-budget",
        title=f"{group.title}: where the time of a step goes",
        x_label="ms, in the traced run",
        parts=tuple(_BUDGET.values()),
        rows=rows,
    )


def exposed_communication(group: Group) -> Figure:
    """Return what a step's collectives cost, all kinds together: what compute hides of it, and what it does not."""
    rows = []
    for name, result in zip(labels(group.results), group.results, strict=True):
        kinds = communication.figures(result.traces) if result.traces else []
        exposed_s = sum(kind.exposed_s for kind in kinds)
        parts = (exposed_s, sum(kind.transfer_s for kind in kinds) - exposed_s, sum(kind.wait_s for kind in kinds))
        rows.append(
            Stack(
                label=name,
                values=tuple(1e3 * part if result.traces else None for part in parts),
                strategy=Case.parse(result.case_id).strategy,
            )
        )
    return stacks(
        name=f"{group.name}-communication",
        title=f"{group.title}: communication of a step",
        x_label="ms, in the traced run",
        parts=("exposed", "hidden behind compute", "waiting for a late rank"),
        rows=rows,
    )


def memory_kept(group: Group, memory: Sequence[MemoryFigures | None]) -> Figure:
    """Return what the fullest rank keeps from step to step by what it is for, beside what it must keep.

    Args:
        group: the results.
        memory: of each of them; None where it was not accounted.
    """
    rows = []
    for name, held in zip(labels(group.results), memory, strict=True):
        due = [row.predicted_bytes for row in held.rows if row.rank == held.fullest] if held else []
        kept = held.held.by_kind() if held else {}
        rows.append(_stack(name, held, [kept.get(kind) for kind in _KEPT], mark=sum(due) if due else None))
    return stacks(
        name=f"{group.name}-memory-kept",
        title=f"{group.title}: memory kept from step to step",
        x_label="MiB on the fullest rank",
        parts=_KEPT,
        rows=rows,
        mark="predicted",
    )


def memory_at_peak(group: Group, memory: Sequence[MemoryFigures | None]) -> Figure:
    """Return what the fullest rank holds when a step holds most; arguments are those of `memory_kept`."""
    kinds = (*_KEPT, "work")
    rows = []
    for name, held in zip(labels(group.results), memory, strict=True):
        # torch.compile steps aside for the accounting, so that this would be eager code's.
        peak = held.account.at_peak.by_kind() if held and not held.case.compiled else {}
        rows.append(_stack(name, held, [peak.get(kind) for kind in kinds]))
    return stacks(
        name=f"{group.name}-memory-peak",
        title=f"{group.title}: memory at the peak of a step",
        x_label="MiB on the fullest rank",
        parts=kinds,
        rows=rows,
    )


def utilisation(group: Group) -> Figure:
    """Return how busy the devices were over the measured time."""
    return _over_time(group, "utilisation", "busy, %, mean of the devices", busy_over_time, times=100)


def power(group: Group) -> Figure:
    """Return the power of all devices together over the measured time."""
    return _over_time(group, "power", "W, all devices together", power_over_time)


def _over_time(
    group: Group,
    what: str,
    label: str,
    told: Callable[[Telemetry | None], list[tuple[float, float]]],
    *,
    times: float = 1,
) -> Figure:
    series = []
    for name, result in zip(labels(group.results), group.results, strict=True):
        points = told(result.telemetry)
        series.append(
            Series(
                label=name,
                x=tuple(round(at_s, 3) for at_s, _ in points),
                y=tuple(times * value for _, value in points),
                strategy=Case.parse(result.case_id).strategy,
            )
        )
    return lines(
        name=f"{group.name}-{what}-over-time",
        title=f"{group.title}: {what} over time",
        x_label="s since the measured steps began",
        y_label=label,
        series=series,
    )


def _stack(name: str, held: MemoryFigures | None, sizes: Sequence[int | None], *, mark: int | None = None) -> Stack:
    return Stack(
        label=name,
        values=tuple(None if size is None else size / _MIB for size in sizes),
        strategy=held.case.strategy if held else name.split("-")[0],
        mark=None if mark is None else mark / _MIB,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds
