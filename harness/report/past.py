"""One case over the stored runs of a machine: every figure that is gated, and which changes were accepted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.gate.observations import Observation, machine, same_work
from harness.plugins import Metric
from harness.records.samples import Samples
from harness.report.lines import table, wrapped
from harness.report.terminal import same
from harness.stored.baselines import NEEDS_ACCEPTANCE, SAME_LEVEL, is_autosaved
from harness.stored.store import Stored

ACCEPTED, HISTORY = "accepted", "history"
_TICKS = " .:-=+*#%@"
"""From the least to the most, in plain ASCII."""
_NOT_KNOWN = "n/a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A gated figure of a case."""

    name: str
    """With its unit, as a file's column."""
    title: str
    value: Callable[[Stored], float | None]
    show: Callable[[float], str]


def figures(metrics: Sequence[Metric]) -> list[Figure]:
    """Return what is gated: the time against either reference, and every metric that has a layer."""
    return [
        Figure(name="same_work_ratio", title="same work", value=_ratio(same_work), show=lambda value: f"{value:.3f}"),
        Figure(name="machine_ratio", title="machine", value=_ratio(machine), show=lambda value: f"{value:.2f}"),
        *(
            Figure(
                name=f"{metric.name}_{metric.unit}" if metric.unit else metric.name,
                title=metric.title,
                value=lambda stored, metric=metric: metric.value(stored.result, stored.reference),  # type: ignore[misc]
                show=metric.show,
            )
            for metric in metrics
            if metric.layer is not None
        ),
    ]


def _ratio(look: Callable[[Samples], Observation | None]) -> Callable[[Stored], float | None]:
    """Return what tells the mean ratio of a case's step to a frozen reference over a run's processes."""

    def ratio(stored: Stored) -> float | None:
        seen = [one.mean for one in map(look, stored.result.samples) if one is not None]
        return math.exp(fmean(seen)) if seen else None

    return ratio


def mark(stored: Stored, previous: Stored | None) -> str:
    """Return what a run is among the others: `accepted` where it began a level that later ones are held to, `history`
    where nobody accepted what it says, and nothing where it is one of its level.
    """
    if stored.verdict in NEEDS_ACCEPTANCE and is_autosaved(Path(stored.where)):
        return HISTORY
    return ACCEPTED if previous is None or stored.verdict not in SAME_LEVEL else ""


def rows(records: Sequence[Stored], wanted: Sequence[Figure]) -> list[dict[str, Any]]:
    """Return one row for each record, oldest first, with every figure at full precision."""
    told = []
    for place, stored in enumerate(records):
        result = stored.result
        told.append(
            {
                "run": stored.where,
                "started_unix_s": result.started_unix_s,
                "commit": stored.commit,
                "host": result.host,
                "hardware": result.hardware,
                "identity": result.identity,
                "profile": result.profile,
                "verdict": stored.verdict,
                "mark": mark(stored, records[place - 1] if place else None),
                "certificate": "none" if stored.certificate is None else stored.certificate.found,
                "processes": len(result.samples),
            }
            | {figure.name: figure.value(stored) for figure in wanted}
        )
    return told


def render(records: Sequence[Stored], wanted: Sequence[Figure]) -> Iterator[str]:
    """Yield the lines: a table with a row for each run, and of each figure its course in a line.

    Args:
        records: of one case, oldest first; at least one.
        wanted: the figures.
    """
    newest = records[-1].result
    many = "" if len(records) == 1 else "s"
    yield from wrapped(f"{newest.case_id} on {newest.host}: {len(records)} stored run{many}, the oldest first")
    known = [one for one in wanted if any(one.value(stored) is not None for stored in records)]
    cells, marks = [], []
    for place, stored in enumerate(records):
        previous = records[place - 1] if place else None
        marks.append(mark(stored, previous))
        values = [one.value(stored) for one in known]
        cells.append(
            [
                Path(stored.where).stem + {ACCEPTED: "+", HISTORY: "-"}.get(marks[-1], ""),
                stored.commit[:8] or "none",
                *(_NOT_KNOWN if value is None else one.show(value) for one, value in zip(known, values, strict=True)),
                "-" if stored.certificate is None else same(stored.certificate),
                stored.verdict,
            ]
        )
    head = ["run", "commit", *(one.title for one in known), "same", "verdict"]
    last = len(head) - 1
    yield from table(head, cells, left=(0, 1, last - 1, last), optional=(1, 3, *range(last - 2, 3, -1)))
    if ACCEPTED in marks:
        yield from wrapped("  + accepted: it began a level, which later runs are held to")
    if HISTORY in marks:
        yield from wrapped("  - history: nobody accepted it, so that nothing is held to it")
    for place in range(1, len(records)):
        yield from _parted(records[place - 1], records[place])
    if len(records) > 1:
        yield ""
        for one in known:
            values = [one.value(stored) for stored in records]
            yield from wrapped(f"{one.title:<10} |{spark(values)}| {_course(one, values)}")


def spark(values: Sequence[float | None]) -> str:
    """Return one character a value, denser where it is larger, and `?` where there is none."""
    there = [value for value in values if value is not None]
    low, span = (min(there), max(there) - min(there)) if there else (0.0, 0.0)
    top = len(_TICKS) - 1
    return "".join(
        "?" if value is None else _TICKS[1 + round((top - 1) * (value - low) / span)] if span else "-"
        for value in values
    )


def _course(one: Figure, values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    change = f", {there[-1] / there[0] - 1:+.1%} since first" if there[0] else ""
    return f"{one.show(min(there))} to {one.show(max(there))}{change}"


def _parted(before: Stored, after: Stored) -> Iterator[str]:
    """Say where a run cannot be compared with the one before it."""
    if before.result.identity != after.result.identity:
        yield from wrapped(f"  {Path(after.where).stem}: another set-up than the run before it; not comparable")
    elif before.result.hardware != after.result.hardware:
        yield from wrapped(
            f"  {Path(after.where).stem}: other hardware under the same name; its time is not comparable"
        )
