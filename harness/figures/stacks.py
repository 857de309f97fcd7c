"""Parts of a whole, case by case: stacked bars that lie, each with its strategy's marker, and a mark of what is due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.figures.bars import named_rows, written
from harness.figures.drawing import Key, drawn, short
from harness.figures.figure import MISSING, Figure, Value, check
from harness.figures.palette import GREY, PARTS, look_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW_IN = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One whole."""

    label: str
    values: tuple[Value, ...]
    """Of each part; None is not known, and then neither is the sum, unless it is given."""
    strategy: str = ""
    mark: Value = None
    """What the sum is held to."""
    total: Value = None
    """The sum, where it is known and a part is not."""

    @property
    def whole(self) -> Value:
        """The sum of the parts."""
        known = [value for value in self.values if value is not None]
        return self.total if self.total is not None else sum(known) if len(known) == len(self.values) else None


def stacks(
    *, name: str, title: str, x_label: str, parts: Sequence[str], rows: Sequence[Stack], mark: str = ""
) -> Figure:
    """Return stacked bars, one a row from the top, each with its sum.

    Args:
        name: of the figure's files.
        title: over the figure.
        x_label: of the values, with the unit.
        parts: their names, in the order of the stack; at most seven, so that they are told apart.
        rows: the wholes.
        mark: what the marks are, in words; empty where there are none.

    Raises:
        ValueError: a row has not one value for each part, there are too many parts, or a number is neither finite nor
            None.
    """
    if len(parts) > len(PARTS):
        raise ValueError(f"figure {name}: {len(parts)} parts, and no more than {len(PARTS)} are told apart")
    for row in rows:
        check(name, row.label, (*row.values, row.mark, row.total))
        if len(row.values) != len(parts):
            raise ValueError(f"figure {name}: {row.label} has {len(row.values)} values of {len(parts)} parts")

    def paint(axes: Axes) -> list[Key]:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch
        from matplotlib.patheffects import Normal, Stroke

        for at, row in enumerate(rows):
            end = 0.0
            for place, value in enumerate(row.values):
                if value:
                    axes.barh(at, value, left=end, height=0.66, **_look(place))
                    end += value
            written(axes, MISSING if row.whole is None else short(row.whole), max(end, row.mark or 0.0), at)
            if row.mark is not None:
                # Dark within light, so that it shows on every part and on either ground.
                halo = [Stroke(linewidth=4, foreground="white"), Normal()]
                axes.plot((row.mark,) * 2, (at - 0.42, at + 0.42), color="black", linewidth=1.8, path_effects=halo)
            look = look_of(row.strategy)
            axes.plot(
                -0.02,
                at,
                transform=axes.get_yaxis_transform(),
                clip_on=False,
                color=look.colour,
                marker=look.marker,
                markersize=6,
            )
        named_rows(axes, [row.label for row in rows], list(range(len(rows))), x_label, half=0.5)
        axes.tick_params(axis="y", pad=14)
        axes.set_xlim(left=0)
        keys: list[Key] = [(Patch(**_look(place)), part) for place, part in enumerate(parts)]
        if any(row.mark is not None for row in rows):
            keys.append((Line2D([], [], color=GREY, linewidth=1.8, linestyle="none", marker="|", markersize=11), mark))
        return keys

    svg, picture = drawn(title, 0.6 + _ROW_IN * len(rows), paint)
    marks = [mark] if mark else []
    head = ("", *parts, "sum", *marks)
    cells = tuple((row.label, *row.values, row.whole, *([row.mark] if mark else [])) for row in rows)
    return Figure(name=name, title=title, svg=svg, picture=picture, head=head, rows=cells)


def _look(place: int) -> dict[str, Any]:
    fill, hatch = PARTS[place]
    return {"facecolor": fill, "hatch": hatch, "edgecolor": GREY, "linewidth": 0.6}
