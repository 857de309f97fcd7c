"""What all figures have in common: size, type, ground, legend, and how they become SVG and PNG, always the same bytes.

The ground is transparent and every colour shows on white and on dark, so that one file serves paper, pages and screens.
Figures are as wide as a phone shows at a readable size.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from harness.figures.figure import MISSING
from harness.figures.palette import GREY, Look

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Key = tuple["Artist", str]
"""An artist and what the legend says of it."""

_WIDTH_IN = 4.8
_TITLE_CHARACTERS = 50
_LEGEND_ROW_IN = 0.19
_LEGEND_HANDLE_PT = 50.0
_LEGEND_CHARACTER_PT = 5.2

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "shardbench",
    # A dollar sign in a name is no formula.
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "font.size": 10,
    # Others are the reader's own; each text of an SVG names all of them.
    "font.sans-serif": ["DejaVu Sans"],
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "legend.columnspacing": 1.2,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY),
    "grid.color": GREY,
}


def drawn(title: str, height_in: float, paint: Callable[[Axes], Sequence[Key]]) -> tuple[str, Callable[[], bytes]]:
    """Return as SVG what is painted into one pair of axes, and what paints it once more as PNG.

    Args:
        title: of the figure.
        height_in: of the axes with their labels, inches; title and legend come on top of it.
        paint: paints, and returns what the legend is to tell; the legend stands below the axes.
    """

    def saved(**form: Any) -> bytes:
        from matplotlib import style

        # After a reset, so that the reader's own settings of matplotlib change nothing.
        with style.context(_STYLE, after_reset=True):
            content = io.BytesIO()
            _laid_out(title, height_in, paint).savefig(content, **form)
        return content.getvalue()

    svg = saved(format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _plain(svg.decode(), title), lambda: saved(format="png", dpi=200, metadata={"Software": None})


def _laid_out(title: str, height_in: float, paint: Callable[[Axes], Sequence[Key]]) -> Figure:
    from matplotlib.figure import Figure

    parts = [title] if len(title) <= _TITLE_CHARACTERS else re.split("(?<=:) ", title, maxsplit=1)
    lines = [line for part in parts for line in textwrap.wrap(part, _TITLE_CHARACTERS)]
    figure = Figure(layout="constrained")
    keys = paint(figure.add_subplot())
    columns = _columns([label for _, label in keys])
    rows = math.ceil(len(keys) / columns)
    figure.set_size_inches(_WIDTH_IN, height_in + 0.2 * len(lines) + _LEGEND_ROW_IN * rows + 0.1)
    figure.suptitle("\n".join(lines), x=0.01, ha="left")
    if keys:
        figure.legend(*zip(*keys, strict=True), loc="outside lower center", ncols=columns)
    return figure


def _columns(labels: Sequence[str]) -> int:
    """Return how many columns of a legend fit side by side, at least one."""
    widest_pt = _LEGEND_HANDLE_PT + _LEGEND_CHARACTER_PT * max(map(len, labels), default=0)
    return max(1, min(len(labels), int(72 * _WIDTH_IN // widest_pt)))


def _plain(svg: str, title: str) -> str:
    """Return an SVG that can stand in a page: without a prologue, with ids that no other figure has, and short.

    matplotlib gives the same thing the same id in every figure, and a browser draws nothing of what it looks up in a
    figure that is hidden. What is left out is what nobody sees: turns by nothing, indents, and the third decimal of
    a coordinate in points.
    """
    opened = svg.index(">", svg.index("<svg")) + 1
    inside = re.sub(r'<g id="[^"]*"', "<g", svg[opened:])
    inside = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", inside)
    inside = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: _COORDINATE.sub(r"\1", found[0]).replace("\n", ""), inside)
    inside = re.sub(r"\n\s*", "\n", inside)
    own = hashlib.sha256(inside.encode() + title.encode()).hexdigest()[:8]
    inside = re.sub(r'( id="|url\(#|href="#)(\w+)', rf"\g<1>\g<2>-{own}", inside)
    return f'{svg[svg.index("<svg") : opened - 1]} role="img">\n<title>{escape(title)}</title>{inside}'


_COORDINATE = re.compile(r"(\.\d\d)\d+")


def short(value: float) -> str:
    """Return a number in three digits, without an exponent from a ten-thousandth to a billion."""
    if value == 0:
        return "0"
    # Of what it is rounded to: 9.999 is written as 10.0.
    digits = 2 - math.floor(math.log10(abs(float(f"{value:.2e}"))))
    if not -7 < digits < 7:
        return f"{value:.2e}"
    return f"{value:,.{max(0, digits)}f}"


def numbered(axis: Any, values: Sequence[float] = (), *, log: bool = False) -> None:
    """Number an axis of matplotlib.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`.
        values: what stands along it; few and whole ones are numbered themselves.
        log: whether it is logarithmic.
    """
    from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

    found = sorted(set(values))
    whole = bool(found) and all(float(value).is_integer() for value in found)
    least = min((b - a for a, b in pairwise(found)), default=0)
    if whole and len(found) <= 8 and (log or 10 * least >= found[-1] - found[0]):
        axis.set_major_locator(FixedLocator(found))
    elif log:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        axis.set_major_locator(MaxNLocator(nbins=7, integer=whole, steps=[1, 2, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(ScalarFormatter(useOffset=False))


def labelled(axes: Axes, x_label: str, y_label: str, *, empty: bool) -> None:
    """Label the axes, and say so where nothing in them is known."""
    axes.set(xlabel=x_label, ylabel=y_label)
    if empty:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, MISSING, transform=axes.transAxes, ha="center", va="center")


def style_of(look: Look) -> Any:
    """Return the dash of a look as matplotlib takes it."""
    return (0, look.dash) if look.dash else "-"
