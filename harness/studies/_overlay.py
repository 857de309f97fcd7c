"""What the studies have in common: figures of a run or none, epochs overlaid, bars beside published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from harness.case import Case
from harness.evidence.runs import Evidence, Run
from harness.evidence.tables import HERE, PUBLISHED, Cell, Table
from harness.figures.charts import Figure, Series, bars, lines

Rows = Callable[[Run], Sequence[float | None]]
"""A figure of each epoch of a run."""

GIB = 2**30


def label(case: Case) -> str:
    """Return a case without its model."""
    return case.id.removeprefix(f"{case.model}-")


def gib(run: Run | None) -> float | None:
    """Return a run's peak memory, GiB."""
    peak = run.peak_bytes if run else None
    return None if peak is None else peak / GIB


def ms(run: Run | None) -> float | None:
    """Return a run's median step, milliseconds."""
    return None if run is None or run.step_s is None else run.step_s * 1e3


def step_s(run: Run | None) -> float | None:
    """Return a run's median step, seconds."""
    return run.step_s if run else None


def last_loss(run: Run | None) -> float | None:
    """Return a run's loss of the last epoch."""
    return run.last_loss if run else None


def last_score(run: Run | None, name: str) -> float | None:
    """Return a run's validation score of the last epoch."""
    return run.last_score(name) if run else None


def over(first: float | None, second: float | None) -> float | None:
    """Return a quotient; None where either is not known, or the second is zero."""
    return None if first is None or not second else first / second


def marked(evidence: Evidence, case: Case) -> str:
    """Return a case without its model, marked where its timing says little, or where it is not certified."""
    run = evidence.run(case)
    if run is None:
        return label(case)
    if run.uncertified:
        return f"{label(case)}?"
    return label(case) + ("*" if run.result.oversubscribed else "!" if run.disturbed else "")


MARKS = "* ranks share cores, ! disturbed: its seconds say little; ? not certified to be the same training"


def missing(evidence: Evidence, cases: Sequence[Case]) -> tuple[str, ...]:
    """Return a sentence for each reason that cases have no run for."""
    by_reason: dict[str, list[str]] = {}
    of_one_model = len({case.model for case in cases}) == 1
    for case in cases:
        if evidence.run(case) is None:
            name = label(case) if of_one_model else case.id
            by_reason.setdefault(evidence.missing.get(case, "not planned here"), []).append(name)
    return tuple(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def per_epoch(
    evidence: Evidence, cases: Sequence[Case], figures: Mapping[str, Rows], published: Callable[[Case, str], Cells]
) -> Table:
    """Return the table of figures by epoch, the published ones in rows of their own."""
    epochs = max((len(run.epoch_s) for case in cases if (run := evidence.run(case))), default=0)
    told = {(case, name): tuple(published(case, name)) for case in cases for name in figures}
    epochs = max(epochs, *map(len, told.values()), 1)
    rows: list[tuple[Cell, ...]] = []
    for case in cases:
        run = evidence.run(case)
        for name, of in figures.items():
            if run is not None:
                rows.append((marked(evidence, case), name, HERE, *_padded(of(run), epochs)))
            if told[case, name]:
                rows.append((label(case), name, PUBLISHED, *_padded(told[case, name], epochs)))
    return Table(
        name="epochs",
        title="epoch by epoch",
        head=("case", "figure", "whose", *(str(n + 1) for n in range(epochs))),
        rows=tuple(rows),
        notes=(MARKS, *missing(evidence, cases)),
    )


Cells = Sequence[float | None]


def _padded(values: Cells, length: int) -> tuple[float | None, ...]:
    return (*values[:length], *(None,) * (length - len(values)))


def overlaid(
    evidence: Evidence,
    cases: Sequence[Case],
    of: Rows,
    *,
    name: str,
    title: str,
    y_label: str,
    published: Callable[[Case], Cells] = lambda case: (),
) -> Figure:
    """Return a figure of every epoch, cases overlaid, what was published beside each."""
    return lines(
        name=name,
        title=title,
        x_label="epoch",
        y_label=y_label,
        series=tuple(_series(evidence, cases, of, published)),
    )


def _series(
    evidence: Evidence, cases: Sequence[Case], of: Rows, published: Callable[[Case], Cells]
) -> Iterator[Series]:
    for case in cases:
        run = evidence.run(case)
        if run is not None and (values := of(run)):
            yield _line(label(case), values, case.strategy)
        if told := published(case):
            yield _line(f"{case.strategy} {case.gpu_count} GPUs, published", told, case.strategy, published=True)


def _line(title: str, values: Cells, strategy: str, *, published: bool = False) -> Series:
    x = tuple(float(n + 1) for n in range(len(values)))
    return Series(label=title, x=x, y=tuple(values), strategy=strategy, published=published)


def beside(name: str, title: str, y_label: str, rows: Sequence[tuple[str, float | None, float | None]]) -> Figure:
    """Return bars by group: what was measured, and what was published."""
    groups, here, told = zip(*rows, strict=True) if rows else ((), (), ())
    published = {"the study": told} if any(value is not None for value in told) else {}
    return bars(name=name, title=title, y_label=y_label, groups=groups, series={HERE: here}, published=published)
