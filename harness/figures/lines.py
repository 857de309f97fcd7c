"""Lines over a common x, and points with what is best among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.figures.drawing import Key, drawn, labelled, numbered, style_of
from harness.figures.figure import Figure, Point, Series, Value, check, told
from harness.figures.palette import GREY, Fill, Look, look_at, look_of, published_look, variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FULL: Fill = "full"
_HOLLOW: dict[Fill, Fill] = {"full": "none", "none": "left"}
"""How a marker is filled where its thing is published."""
_MOST_MARKERS = 16
"""On one line."""
_NEAR = 0.01
"""Share of the range of y within which lines coincide."""
_FLAT = 1e-3
"""Share of the largest y below which a range is rounding, and not drawn as large as the figure."""
_SLICE_PT = 6.0
"""Of a line that others coincide with, and from marker to marker beside each other."""
_PLOT_PT = 280.0
"""How wide the axes are, about."""


def lines(
    *,
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    ideal: Series | None = None,
    rings: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Return lines over a common x.

    Args:
        name: of the figure's files.
        title: over the figure.
        x_label: with the unit.
        y_label: with the unit.
        series: in the order of the legend.
        ideal: what could be reached at best: a thin line without markers; y then begins at 0.
        rings: of what is to be said of points, in words, where these are; each has a ring.
        log_x: whether x is logarithmic.
        log_y: whether y is logarithmic; what is not above 0 is a gap there.

    Raises:
        ValueError: a series has no y for an x, or a number that is neither finite nor None.
    """
    every = [*series, ideal] if ideal else [*series]
    for one in every:
        check(name, one.label, (*one.x, *one.y))
        if len(one.x) != len(one.y):
            raise ValueError(f"figure {name}: {one.label} has {len(one.x)} x and {len(one.y)} y")
    known = [y for one in every for y in one.y if y is not None]
    least, most = min(known, default=0.0), max(known, default=0.0)
    flat = most - least < _FLAT * max(abs(least), abs(most))
    turns = _turns(series, _FLAT * abs(most) if flat else _NEAR * (most - least))

    def paint(axes: Axes) -> list[Key]:
        from matplotlib.lines import Line2D

        keys: list[Key] = []
        for one, (look, fill), turn in zip(series, _looks(series), turns, strict=True):
            form: dict[str, Any] = {"color": look.colour, "linewidth": 1.5, "markersize": 6, "fillstyle": fill}
            form |= {"marker": look.marker, "markerfacecoloralt": "none"}
            keys.append((Line2D([], [], linestyle=style_of(look), **form), told(one)))
            _draw(axes, one, look, form, turn)
        if ideal:
            (line,) = axes.plot(ideal.x, _gaps(ideal.y), color=GREY, linewidth=1, linestyle=(0, (1, 1.5)))
            keys.append((line, ideal.label))
        for words, places in (rings or {}).items():
            form = {"color": GREY, "linestyle": "none", "marker": "o", "markersize": 13, "fillstyle": "none"}
            axes.plot([x for x, _ in places], [y for _, y in places], clip_on=False, **form)
            keys.append((Line2D([], [], **form | {"markersize": 9}), words))
        if log_x:
            axes.set_xscale("log", base=2, nonpositive="mask")
        if log_y:
            axes.set_yscale("log", nonpositive="mask")
        elif ideal:
            axes.set_ylim(bottom=0)
        elif flat and known:
            axes.set_ylim(least - 0.02 * abs(least) - 0.01, most + 0.02 * abs(most) + 0.01)
        aside = max((of for one, (_, of) in zip(series, turns, strict=True) if _beside(one, of)), default=0)
        axes.margins(x=0.05 + aside * _SLICE_PT / 2 / _PLOT_PT)
        numbered(axes.xaxis, [x for one in every for x in one.x], log=log_x)
        numbered(axes.yaxis, log=log_y)
        labelled(axes, x_label, y_label, empty=not known)
        return keys

    svg, picture = drawn(title, 2.9, paint)
    rows = tuple((told(one), x, y) for one in every for x, y in zip(one.x, one.y, strict=True))
    return Figure(name=name, title=title, svg=svg, picture=picture, head=("", x_label, y_label), rows=rows)


def scatter(
    *, name: str, title: str, x_label: str, y_label: str, points: Sequence[Point], front: bool = True
) -> Figure:
    """Return points, and the front of those that no other is left of and above: less x and more y is better.

    Args:
        name: of the figure's files.
        title: over the figure.
        x_label: with the unit.
        y_label: with the unit.
        points: in the order of the legend; one with an unknown x or y is in the table alone.
        front: whether the Pareto front is drawn; published points are not on it.

    Raises:
        ValueError: a number is neither finite nor None.
    """
    for one in points:
        check(name, one.label, (one.x, one.y))
    best = _front(points) if front else []

    def paint(axes: Axes) -> list[Key]:
        keys: list[Key] = []
        known = False
        if best:
            at = sorted((one.x, one.y) for one in best if one.x is not None and one.y is not None)
            (line,) = axes.plot(*zip(*at, strict=True), color=GREY, linewidth=1, drawstyle="steps-post")
            keys.append((line, "Pareto front"))
        for one, (look, fill) in zip(points, _looks(points), strict=True):
            if one.x is None or one.y is None:
                continue
            known = True
            (mark,) = axes.plot(
                one.x,
                one.y,
                color=look.colour,
                linestyle="none",
                marker=look.marker,
                markersize=9,
                fillstyle=fill,
                markerfacecoloralt="none",
                # A point at the very edge is drawn whole.
                clip_on=False,
            )
            keys.append((mark, told(one)))
        axes.margins(0.1)
        numbered(axes.xaxis)
        numbered(axes.yaxis)
        labelled(axes, x_label, y_label, empty=not known)
        return keys[1:] + keys[:1] if best else keys

    svg, picture = drawn(title, 2.9, paint)
    head = ("", x_label, y_label, *(["Pareto front"] if front else []))
    rows = tuple((told(one), one.x, one.y, *(["yes" if one in best else "no"] if front else [])) for one in points)
    return Figure(name=name, title=title, svg=svg, picture=picture, head=head, rows=rows)


def _looks(every: Sequence[Series | Point]) -> list[tuple[Look, Fill]]:
    """Return how each is drawn, where there may be several of one strategy."""
    seen: Counter[tuple[str, bool]] = Counter()
    looks: list[tuple[Look, Fill]] = []
    for one in every:
        place = seen[one.strategy, one.published]
        seen[one.strategy, one.published] += 1
        look, fill = variant(look_of(one.strategy), place) if one.strategy else (look_at(place), _FULL)
        looks.append((published_look(look), _HOLLOW[fill]) if one.published else (look, fill))
    return looks


def _turns(series: Sequence[Series], near: float) -> list[tuple[int, int]]:
    """Return of each line its turn among those that it coincides with, and how many they are."""
    alike: list[list[int]] = []
    for place, one in enumerate(series):
        own = [places for places in alike if _coincide(series[places[0]], one, near)]
        if own and not one.published:
            own[0].append(place)
        else:
            alike.append([place])
    found = {place: (turn, len(places)) for places in alike for turn, place in enumerate(places)}
    return [found[place] for place in range(len(series))]


def _draw(axes: Axes, one: Series, look: Look, form: dict[str, Any], turn: tuple[int, int]) -> None:
    """Draw a line; of lines that coincide each has its slices of the one that is seen, and markers of its own."""
    from matplotlib.transforms import ScaledTranslation

    at, of = turn
    marked = _marked(one.y)
    if of == 1:
        axes.plot(one.x, _gaps(one.y), linestyle=style_of(look), markevery=marked, **form)
        return
    width = form["linewidth"]
    slices = (at * _SLICE_PT / width, (_SLICE_PT / width, (of - 1) * _SLICE_PT / width))
    axes.plot(one.x, _gaps(one.y), **form | {"marker": "", "linestyle": slices, "dash_capstyle": "butt"})
    (marks,) = axes.plot(one.x, _gaps(one.y), **form | {"linestyle": ""})
    if _beside(one, of):
        aside_in = (at - (of - 1) / 2) * _SLICE_PT / 72
        marks.set_transform(marks.get_transform() + ScaledTranslation(aside_in, 0, axes.figure.dpi_scale_trans))
    else:
        marks.set_markevery([place for place in range(len(one.x)) if place % of == at])


def _beside(one: Series, of: int) -> bool:
    """Return whether so many markers have room beside each other at every x of a line."""
    return of > 1 and len(one.x) * of * _SLICE_PT < _PLOT_PT


def _gaps(values: Sequence[Value]) -> list[float]:
    """Return the values as matplotlib takes them, which breaks a line at NaN."""
    return [float("nan") if value is None else value for value in values]


def _marked(values: Sequence[Value]) -> list[int]:
    """Return the places that get a marker: some of a long line, and each that would not show without."""
    every = -(-len(values) // _MOST_MARKERS)
    alone = [(None, *values)[place] is None and (*values, None)[place + 1] is None for place in range(len(values))]
    return [place for place in range(len(values)) if place % max(1, every) == 0 or alone[place]]


def _coincide(one: Series, other: Series, near: float) -> bool:
    """Return whether two lines share an x, and are alike at all that they share."""
    ours, theirs = (dict(zip(line.x, line.y, strict=True)) for line in (one, other))
    pairs = [(ours[x], theirs[x]) for x in ours.keys() & theirs.keys()]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return bool(known) and all(abs(a - b) <= near for a, b in known)


def _front(points: Sequence[Point]) -> list[Point]:
    known = [(p.x, p.y, p) for p in points if p.x is not None and p.y is not None and not p.published]
    return [p for x, y, p in known if not any(a <= x and b >= y and (a, b) != (x, y) for a, b, _ in known)]
