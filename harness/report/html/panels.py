"""Which figures a page has: of each model, one for each number of GPUs; and what is left out, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.figures.charts import Figure
from harness.report.html import drawings
from harness.report.html.drawings import Drawing
from harness.report.reported import Run

MOST_ROWS = 300
"""Of a figure's table in the page; the rest is in its CSV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One figure."""

    figure: Figure
    label: str
    """Which of its card it is, such as `2 GPUs`."""
    gpus: int | None
    """None where it is of several."""

    @property
    def svg(self) -> Any:
        """The drawing as a page holds it: matplotlib has escaped what is written in it."""
        from markupsafe import Markup

        return Markup(self.figure.svg)

    @property
    def rows(self) -> tuple[tuple[Any, ...], ...]:
        """What the page's table shows of its numbers."""
        return self.figure.rows[:MOST_ROWS]

    @property
    def left_out(self) -> int:
        """How many rows the table has not."""
        return max(0, len(self.figure.rows) - MOST_ROWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One kind of figure, of one model."""

    theme: str
    title: str
    about: str
    """How it is to be read."""
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPanels:
    """All figures of a model."""

    model: str
    cards: tuple[Card, ...]
    missing: tuple[tuple[str, str], ...]
    """Kinds of figures that are left out, and why."""

    @property
    def figures(self) -> Iterator[Figure]:
        """All of them."""
        return (panel.figure for card in self.cards for panel in card.panels)


def of_run(run: Run) -> list[ModelPanels]:
    """Return the figures of a run, model by model."""
    return [_of_model(run, model) for model, outcomes in run.by_model() if outcomes]


def _of_model(run: Run, model: str) -> ModelPanels:
    cards, missing = [], []
    batch = next(one.case.batch_size for one in run.outcomes if one.case.model == model)
    for drawing in drawings.of_run(run):
        panels, reasons = _panels(run, model, drawing)
        if panels:
            about = f"{drawing.about} {drawing.beside(model, batch)}".strip()
            cards.append(Card(theme=drawing.theme, title=drawing.title, about=about, panels=tuple(panels)))
        elif reasons := list(filter(None, reasons)):
            missing.append((drawing.title, reasons[0]))
    return ModelPanels(model=model, cards=tuple(cards), missing=tuple(missing))


def _panels(run: Run, model: str, drawing: Drawing) -> tuple[list[Panel], list[str]]:
    panels, reasons = [], []
    for group in drawing.groups(run, model):
        made = drawing.draw(run, group)
        if isinstance(made, str):
            reasons.append(made)
        else:
            panels += [Panel(figure=figure, label=label, gpus=group.gpus) for label, figure in made]
    return panels, reasons
