"""The history of every gated figure over the stored runs of a machine, with the changes that were accepted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.figures.charts import Figure, Series, lines
from harness.figures.results import Group, labels
from harness.report import past
from harness.report.reported import Run
from harness.running.pipeline import Outcome
from harness.stored.store import Stored

_MOST_RUNS = 40
"""The newest; older ones are in the stored runs."""
_NOW = "this run"
_SHOWN = {
    "same_work_ratio": ("step over the same work in a plain loop", 1.0, "ratio"),
    "machine_ratio": ("step over frozen kernels", 1.0, "ratio"),
    "peak_memory_bytes": ("peak memory", 2.0**-30, "GiB"),
}
"""What a gated figure is, where its title alone says little, what it is multiplied by, and its axis then."""


def figures(run: Run) -> list[past.Figure]:
    """Return what is gated; seconds are not, but as ratios to the same work beside them."""
    every = past.figures(list(run.registry.metrics.values()))
    return [figure for figure in every if not figure.name.endswith("_s")]


def words(figure: past.Figure) -> str:
    """Return what a gated figure is."""
    return _SHOWN[figure.name][0] if figure.name in _SHOWN else figure.title


def figure_of(run: Run, outcomes: Sequence[Outcome], group: Group, figure: past.Figure) -> Figure | str:
    """Return a gated figure of each of the cases, run by run; or why there is none.

    Args:
        run: that is told.
        outcomes: of the cases.
        group: the same as a group of results.
        figure: that is drawn.
    """
    records = [_records(run, one) for one in outcomes]
    if max(map(len, records), default=0) < 2:
        return "no earlier run of this set-up is stored beside; --benchmark-save=NAME stores one"
    runs = _runs(stored for of_case in records for stored in of_case)
    times = _SHOWN[figure.name][1] if figure.name in _SHOWN else 1.0
    series, rings, rows = [], [], []
    for name, one, of_case in zip(labels(group.results), outcomes, records, strict=True):
        points = []
        for place, stored in enumerate(of_case):
            found, at = figure.value(stored), runs.index(stored.where) + 1
            value = None if found is None else times * found
            mark = "" if stored.where == _NOW else past.mark(stored, of_case[place - 1] if place else None)
            points.append((float(at), value))
            if mark == past.ACCEPTED and value is not None:
                rings.append((float(at), value))
            rows.append((name, at, value, Path(stored.where).stem, stored.verdict, mark, stored.commit[:12]))
        x, y = zip(*points, strict=True)
        series.append(Series(label=name, x=x, y=y, strategy=one.case.strategy))
    known = max(sum(value is not None for value in one.y) for one in series)
    if known < 2:
        return f"{known} run of this set-up knows it" if known else ""
    made = lines(
        name=f"{group.name}-history-{figure.name}",
        title=f"{group.title}: {words(figure)}",
        x_label="stored run",
        y_label=_SHOWN[figure.name][2] if figure.name in _SHOWN else figure.title,
        series=series,
        rings={"accepted": rings} if rings else None,
    )
    return replace(made, head=("", "run", made.head[2], "stored as", "verdict", "mark", "commit"), rows=tuple(rows))


def _records(run: Run, one: Outcome) -> list[Stored]:
    """Return what is stored of a case's set-up on this hardware, oldest first, and this run's own record at the end."""
    own = one.result
    alike = [
        stored
        for stored in run.history.get(one.case, ())
        if (stored.result.identity, stored.result.hardware, stored.result.conditions)
        == (own.identity, own.hardware, own.conditions)
        and stored.result.started_unix_s <= own.started_unix_s
    ]
    alike.sort(key=lambda stored: stored.result.started_unix_s)
    if not alike or alike[-1].result.started_unix_s != own.started_unix_s:
        now = Stored(
            where=_NOW, result=own, reference=one.reference, certificate=one.certificate, verdict=one.verdict.word
        )
        alike.append(now)
    return alike[-_MOST_RUNS:]


def _runs(stored: Iterable[Stored]) -> list[str]:
    """Return the runs in the order they were made, whichever of the cases each holds."""
    begun: dict[str, float] = {}
    for one in stored:
        begun[one.where] = min(one.result.started_unix_s, begun.get(one.where, one.result.started_unix_s))
    return sorted(begun, key=lambda where: begun[where])
