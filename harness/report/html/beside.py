"""Published scaling beside one's own: of each study of the same family of models, the batch that is nearest."""

from __future__ import annotations

import math
import re
from functools import cache

from harness import published as studies
from harness.figures.charts import Series
from harness.published import Published, PublishedFigure

_SECONDS = ("epoch_s", "training_s")
"""Of one amount of work: the fewer the faster, whatever the GPUs."""


def published(model: str, batch: int, *, share: bool) -> list[Series]:
    """Return the published speedups over GPUs of a model's family, or with `share` their efficiency."""
    found = []
    for study in _of_family(model):
        for axes, seconds in _nearest(study, batch).items():
            fewest = min(seconds)
            gained = {gpus: fewest * seconds[fewest] / seconds[gpus] for gpus in sorted(seconds)}
            strategy = next((value for axis, value in axes if axis == "strategy"), "dp")
            found.append(
                Series(
                    label=str(strategy),
                    x=tuple(gained),
                    y=tuple(value / gpus if share else value for gpus, value in gained.items()),
                    strategy=str(strategy),
                    published=True,
                )
            )
    return found


def sources(model: str, batch: int) -> str:
    """Return what the published lines of a model are of, in words; empty where there are none."""
    found = [f"{study.title} ({study.hardware})" for study in _of_family(model) if _nearest(study, batch)]
    if not found:
        return ""
    return (
        f"Dashed and greyer: published, {'; '.join(found)}. A study without one GPU begins on the ideal line, at its "
        "fewest."
    )


@cache
def _of_family(model: str) -> tuple[Published, ...]:
    """Return the studies whose title has the letters that a model's name begins with: `resnet` of `resnet18`."""
    family = re.match("[a-z]+", model)[0]  # type: ignore[index]
    known = (studies.load(file) for file in sorted(studies.FOLDER.glob("*.json")))
    return tuple(study for study in known if family in re.sub("[^a-z0-9]", "", study.title.lower()))


def _nearest(study: Published, batch: int) -> dict[tuple[tuple[str, str | int], ...], dict[int, float]]:
    """Return the seconds by GPUs of each row of a study; of several batches that which is nearest."""
    rows: dict[tuple[tuple[str, str | int], ...], dict[int, float]] = {}
    for figure in study.figures:
        gpus = figure.axes.get("gpus")
        if figure.name in _SECONDS and isinstance(gpus, int):
            rows.setdefault(_others(figure), {})[gpus] = study.value(figure.name, **figure.axes) or math.nan
    rows = {axes: seconds for axes, seconds in rows.items() if len(seconds) > 1}
    batches = {value for axes in rows for axis, value in axes if axis == "batch" and isinstance(value, int)}
    if not batches:
        return rows
    near = min(batches, key=lambda one: abs(math.log(one / batch)))
    return {axes: seconds for axes, seconds in rows.items() if ("batch", near) in axes}


def _others(figure: PublishedFigure) -> tuple[tuple[str, str | int], ...]:
    return tuple(sorted((axis, value) for axis, value in figure.axes.items() if axis != "gpus"))
