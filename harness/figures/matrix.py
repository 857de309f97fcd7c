"""A confusion matrix: which class was taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.figures.drawing import Key, drawn, labelled
from harness.figures.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_WRITTEN = 12
"""Classes with which a count has room in its cell."""
_MOST_NAMED = 25
"""Classes with which each has room for its name."""


def matrix(
    *,
    name: str,
    title: str,
    labels: Sequence[str],
    counts: Sequence[Sequence[int]],
    x_label: str,
    y_label: str,
) -> Figure:
    """Return a matrix of counts; how dark a cell is, is its share of its row, so that rare classes show too.

    Args:
        name: of the figure's files.
        title: over the figure.
        labels: of the classes, in the order of the rows and of the columns.
        counts: rows [true class] of columns [predicted class].
        x_label: what the columns are.
        y_label: what the rows are.

    Raises:
        ValueError: the matrix has not a row and a column for each label.
    """
    if [len(row) for row in counts] != [len(labels)] * len(labels):
        raise ValueError(f"figure {name}: {len(labels)} labels, and rows of {[len(row) for row in counts]} counts")
    totals = [sum(row) for row in counts]
    # A class without images has no shares: its row stays empty.
    shares = [
        [count / total if total else float("nan") for count in row] for row, total in zip(counts, totals, strict=True)
    ]

    def paint(axes: Axes) -> list[Key]:
        from matplotlib.colors import PowerNorm
        from matplotlib.ticker import PercentFormatter

        labelled(axes, x_label, y_label, empty=not labels)
        if not labels:
            return []
        # By the square root, since most mistakes are rare.
        norm = PowerNorm(0.5, vmin=0, vmax=1)
        image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="none")
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.7, ticks=[0, 0.05, 0.25, 0.5, 1])
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        bar.outline.set_visible(False)
        bar.set_label("share of the row")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        every = -(-len(labels) // _MOST_NAMED)
        ticks = range(0, len(labels), every)
        names = [labels[place] for place in ticks]
        axes.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 or len(names) > _MOST_WRITTEN else 0)
        axes.set_yticks(ticks, names)
        if len(labels) <= _MOST_WRITTEN:
            for row, cells in enumerate(counts):
                for column, count in enumerate(cells):
                    dark = totals[row] and count / totals[row] > 0.3
                    colour = "white" if dark else "#404040"
                    if count:
                        axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
        return []

    svg, picture = drawn(title, 4.0, paint)
    rows = tuple((label, *row) for label, row in zip(labels, counts, strict=True))
    return Figure(name=name, title=title, svg=svg, picture=picture, head=(f"{y_label} / {x_label}", *labels), rows=rows)
