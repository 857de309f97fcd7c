"""The results as tables: one for each model, a row a case, a cell as it is shown and as it is sorted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.anatomy.telemetry import disturbance
from harness.case import Case
from harness.figures.drawing import short
from harness.figures.figure import MISSING
from harness.figures.palette import look_of
from harness.gate.limits import OPEN, WORSE
from harness.plugins import Metric
from harness.report import certificates, verdicts
from harness.report.reported import Run
from harness.results import Result
from harness.running.pipeline import Outcome, reference_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell."""

    text: str
    value: float | str | None = None
    """By which it is sorted; None by its text."""
    kind: str = ""
    """Classes of its looks."""
    colour: str = ""
    """Of the strategy that it names."""
    title: str = ""
    """What more there is to say of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Head of a column."""

    title: str
    name: str
    """As the address of a sorted page has it."""
    number: bool = False
    minor: bool = False
    """Whether a phone leaves it out until it is asked for all."""
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case."""

    case: Case
    verdict: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All cases of a model."""

    model: str
    about: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())


_ABOUT = {
    "step_time": "the slowest rank of each measured step, then the median",
    "throughput": "global batch over step time",
    "speedup": "throughput over that of the named reference",
    "efficiency": "speedup over GPUs; the batch per GPU is kept: weak scaling",
    "peak_memory": "of the fullest GPU what torch's allocator held at most; on a CPU the largest rank's resident set",
    "loss": "mean training loss of the last epoch",
}
_NAMED = 3
"""More cases that one reason holds for are counted."""
_MINOR = ("throughput", "efficiency", "loss")


def of_run(run: Run) -> list[Table]:
    """Return the tables of a run, in the order its models ran."""
    return [_table(run, model, outcomes) for model, outcomes in run.by_model()]


def choices(run: Run) -> dict[str, list[str]]:
    """Return what the page can be filtered by: models, GPUs, strategies and verdicts that there are."""
    cases = [*(one.case for one in run.outcomes), *run.out_of_memory]
    words = {one.verdict.word for one in run.outcomes} | ({"out of memory"} if run.out_of_memory else set())
    return {
        "model": list(dict.fromkeys(case.model for case in cases)),
        "gpus": [str(count) for count in sorted({case.gpu_count for case in cases})],
        "strategy": list(dict.fromkeys(case.strategy for case in cases)),
        "verdict": sorted(words),
    }


def _table(run: Run, model: str, outcomes: Sequence[Outcome]) -> Table:
    metrics = sorted(run.registry.metrics.values(), key=lambda metric: metric.order)
    values = {one.case: [metric.value(one.result, one.reference) for metric in metrics] for one in outcomes}
    shown = [place for place in range(len(metrics)) if any(row[place] is not None for row in values.values())]
    columns = (
        Column(title="strategy", name="strategy"),
        Column(title="GPUs", name="gpus", number=True),
        Column(title="batch", name="batch", number=True, minor=True, about="per GPU"),
        *(
            Column(
                title=metrics[place].title,
                name=metrics[place].name,
                number=True,
                minor=metrics[place].name in _MINOR,
                about=_ABOUT.get(metrics[place].name, ""),
            )
            for place in shown
        ),
        Column(
            title="same training",
            name="same",
            number=True,
            about="how far its parameters are from the reference's, as a share of what training changed",
        ),
        Column(title="sends", name="sends", number=True, minor=True, about="what a rank must send in a step"),
        Column(title="verdict", name="verdict"),
    )
    rows = [_row(one, metrics, shown, values[one.case]) for one in outcomes]
    full = [case for case in run.out_of_memory if case.model == model]
    rows += [_full(case, run.out_of_memory[case], len(columns)) for case in full]
    return Table(
        model=model,
        about=_about(outcomes),
        columns=columns,
        rows=tuple(rows),
        notes=tuple(_notes(outcomes)),
    )


def _row(one: Outcome, metrics: Sequence[Metric], shown: Sequence[int], values: Sequence[float | None]) -> Row:
    word = one.verdict.word
    cells = [*_named(one.case, _mark(one.result))]
    for place in shown:
        metric, value = metrics[place], values[place]
        # A speed that may not be compared is shown as one that does not count.
        struck = "struck" if word == "uncertified" and metric.timed and value is not None else ""
        text = MISSING if value is None else metric.show(value)
        cells.append(Cell(text=text, value=value, kind=struck or ("" if value is not None else "missing")))
    share = max((figure.difference for figure in one.certificate.figures), default=None)
    cells.append(
        Cell(
            text=certificates.cell(one.certificate),
            value=None if not one.certificate.granted or share is None else share,
            kind="" if one.certificate.granted else "bad",
            title="; ".join(one.certificate.causes),
        )
    )
    sends = certificates.sends(one.certificate, one.case.gpu_count) if one.case.gpu_count > 1 else "-"
    cells.append(Cell(text=sends.strip(), value=_mib(sends)))
    cells.append(Cell(text=word, kind=f"word {kind_of(word)}", title="; ".join(verdicts.why(one))))
    return Row(case=one.case, verdict=word, cells=tuple(cells))


def _full(case: Case, said: str, columns: int) -> Row:
    cells = (*_named(case, ""), *(Cell(text="-") for _ in range(columns - 4)))
    word = Cell(text="out of memory", kind="word open", title=said)
    return Row(case=case, verdict="out of memory", cells=(*cells, word))


def _named(case: Case, mark: str) -> tuple[Cell, ...]:
    name = "-".join((case.strategy, *case.options))
    return (
        Cell(text=name + mark, colour=look_of(case.strategy).colour, title=case.id),
        Cell(text=str(case.gpu_count), value=case.gpu_count),
        Cell(text=str(case.batch_size), value=case.batch_size),
    )


def kind_of(word: str) -> str:
    """Return how a verdict looks: bad, open, good or plain."""
    return "bad" if word in WORSE else "open" if word in OPEN else "good" if word == "improved" else "plain"


def _mark(result: Result) -> str:
    if result.oversubscribed:
        return "*"
    return "!" if result.watched and disturbance(result.watched) else ""


def _about(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "no case fits the memory"
    result, lead = outcomes[0].result, outcomes[0].result.lead
    epochs = len(lead.epochs)
    size = result.settings.get("image_size")
    parts = [
        f"{lead.train_images} training and {lead.val_images} validation images of {result.dataset}"
        + (f", {size} x {size} pixels" if size else ""),
        f"{epochs} epoch{'s' * (epochs != 1)}",
        f"{lead.parameters / 1e6:.1f} M parameters" if lead.parameters else "",
        f"weights: {', '.join(sorted({one.result.lead.weights for one in outcomes}))}",
    ]
    return "; ".join(filter(None, parts))


def _notes(outcomes: Sequence[Outcome]) -> Iterator[str]:
    references = sorted({reference_of(one.case).id for one in outcomes if one.reference is not None})
    if references:
        yield f"Speedup is against {', '.join(references)}."
    if any(one.result.oversubscribed for one in outcomes):
        yield "* more ranks than cores: it ran, but its timing says little and is not gated."
    for one in outcomes:
        if not one.result.oversubscribed and one.result.watched and (why := disturbance(one.result.watched)):
            yield f"! {one.case.id} was disturbed while it was timed: {'; '.join(why)}."
    if any(one.verdict.word == "uncertified" for one in outcomes):
        yield "Struck through: not certified to do the same training, so its speed says nothing."
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in outcomes:
        if one.verdict.word != "passed" and (reason := "; ".join(verdicts.why(one))):
            reasons.setdefault((one.verdict.word, reason), []).append(one.case.id)
    for (word, reason), cases in reasons.items():
        names = ", ".join(cases) if len(cases) <= _NAMED else f"{len(cases)} cases"
        yield f"{word[0].upper()}{word[1:]}, {names}: {reason}."
    notes = Counter(one.reference_note for one in outcomes if one.reference_note and one.reference is None)
    for note, count in notes.items():
        yield f"No speedup of {count} case{'s' * (count > 1)}: {note}."


def _mib(text: str) -> float | None:
    try:
        return float(text.split()[0])
    except (IndexError, ValueError):
        return None


def number(value: Any) -> str:
    """Return a number of a figure's table as it is shown."""
    if value is None:
        return MISSING
    return short(value) if isinstance(value, float) else str(value)
