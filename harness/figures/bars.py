"""Bars of values by strategy, and how values of each strategy spread; both lie, so that names are read as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from harness.figures.drawing import Key, drawn, labelled, numbered, short, style_of
from harness.figures.figure import MISSING, Figure, Value, as_published, check
from harness.figures.palette import FIXED, GREY, Look, look_at, look_of, published_look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HATCHES = ("", "/////", ".....", "xxxxx", "-----")
"""Of the series of a group, where a bar's colour is its group's."""
_BAR_IN = 0.2
_MOST_STROKES = 60
_GAP = 0.6
"""Between groups, in bars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """One series of bars."""

    name: str
    place: int
    """Among the series; a published one has that of its own."""
    values: Sequence[Value]
    published: bool

    @property
    def label(self) -> str:
        """As the legend and the table call it."""
        return as_published(self.name) if self.published else self.name


def bars(
    *,
    name: str,
    title: str,
    y_label: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[Value]],
    published: Mapping[str, Sequence[Value]] | None = None,
    stacked: bool = False,
    strategies: Mapping[str, str] | None = None,
) -> Figure:
    """Return bars that lie, group by group from the top, each with its value.

    A bar has the look of its group's strategy, else that of its series', else one by the place of its series. A name's
    strategy is its first word, where any of the names begins with one of this suite's.

    Args:
        name: of the figure's files.
        title: over the figure.
        y_label: of the values, with the unit.
        groups: their names.
        series: of each name, a value for each group.
        published: the like as others measured it: hollow bars below one's own.
        stacked: whether the values of a group are parts of one bar.
        strategies: which strategy a group or a series is of, where its name does not tell.

    Raises:
        ValueError: a series has not one value for each group, or a number that is neither finite nor None.
    """
    places = {label: place for place, label in enumerate(series)}
    kinds = [_Kind(name=label, place=places[label], values=own, published=False) for label, own in series.items()]
    kinds += [
        _Kind(name=label, place=places.get(label, place), values=theirs, published=True)
        for place, (label, theirs) in enumerate((published or {}).items())
    ]
    for kind in kinds:
        check(name, kind.label, kind.values)
        if len(kind.values) != len(groups):
            raise ValueError(f"figure {name}: {kind.label} has {len(kind.values)} values of {len(groups)} groups")
    stacks = [[kind for kind in kinds if kind.published is theirs] for theirs in (False, True)]
    stacks = [stack for stack in stacks if stack] if stacked else [[kind] for kind in kinds]
    own = {name: re.split("[- ,]", name)[0] for name in (*groups, *series, *(published or {}))} | dict(strategies or {})
    named = {name for name, strategy in own.items() if strategy in FIXED or name in (strategies or {})}
    by_group, by_series = not named.isdisjoint(groups), not named.isdisjoint(series)

    def look(group: str | None, kind: _Kind) -> dict[str, Any]:
        if by_group:
            colour = GREY if group is None else _coloured(look_of(own[group]), kind)
        else:
            colour = _coloured(look_of(own[kind.name]) if by_series else look_at(kind.place), kind)
        hatch = _HATCHES[kind.place % len(_HATCHES)] if by_group else ""
        hollow = kind.published or hatch
        return {
            "facecolor": "none" if hollow else colour,
            "edgecolor": colour,
            "hatch": hatch,
            "linestyle": (0, (3, 2)) if kind.published else "-",
        }

    def paint(axes: Axes) -> list[Key]:
        from matplotlib.patches import Patch

        at, middles = 0.0, []
        for place, group in enumerate(groups):
            middles.append(at + (len(stacks) - 1) / 2)
            for stack in stacks:
                end = 0.0
                for kind in stack:
                    value = kind.values[place]
                    if value is not None:
                        axes.barh(at, value, left=end, height=0.8, **look(group, kind))
                        end += value
                known = all(kind.values[place] is not None for kind in stack)
                written(axes, short(end) if known else MISSING, end, at)
                at += 1
            at += _GAP
        named_rows(axes, groups, middles, y_label, half=len(stacks) / 2)
        return [(Patch(**look(None, kind)), kind.label) for kind in kinds] if len(kinds) > 1 else []

    svg, picture = drawn(title, 0.6 + _BAR_IN * len(groups) * (len(stacks) + _GAP), paint)
    rows = tuple((group, *(kind.values[place] for kind in kinds)) for place, group in enumerate(groups))
    head = ("", *(kind.label for kind in kinds))
    return Figure(name=name, title=title, svg=svg, picture=picture, head=head, rows=rows)


def spreads(
    *,
    name: str,
    title: str,
    x_label: str,
    groups: Mapping[str, Sequence[float]],
    strategies: Mapping[str, str] | None = None,
) -> Figure:
    """Return how the values of each group spread: each as a stroke, their range, the middle half as a box, the median.

    Args:
        name: of the figure's files.
        title: over the figure.
        x_label: of the values, with the unit.
        groups: of each name its values; none is told as not known.
        strategies: which strategy a group is of, where that is not its name.

    Raises:
        ValueError: a value is not finite.
    """
    for group, values in groups.items():
        check(name, group, values)
    of = strategies or {}

    def paint(axes: Axes) -> list[Key]:
        for place, (group, values) in enumerate(groups.items()):
            if not values:
                axes.text(0.02, place, MISSING, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
                continue
            look = look_of(of.get(group, group))
            least, low, middle, high, most = _five(values)
            axes.plot((least, most), (place, place), color=look.colour, linewidth=1.2, linestyle=style_of(look))
            # Of many only so many that they are told apart.
            strokes = sorted(values)[:: -(-len(values) // _MOST_STROKES)]
            axes.plot(strokes, [place] * len(strokes), color=look.colour, marker="|", linestyle="none", alpha=0.7)
            axes.barh(place, high - low, left=low, height=0.55, color=look.colour, alpha=0.35, linewidth=0)
            axes.plot(middle, place, color=look.colour, marker=look.marker, markersize=7, clip_on=False)
        named_rows(axes, list(groups), list(range(len(groups))), x_label, half=0.5)
        return []

    svg, picture = drawn(title, 0.6 + 0.27 * len(groups), paint)
    head = ("", "values", "least", "lower quartile", "median", "upper quartile", "most")
    rows = tuple((group, len(own), *(_five(own) if own else [None] * 5)) for group, own in groups.items())
    return Figure(name=name, title=title, svg=svg, picture=picture, head=head, rows=rows)


def _coloured(look: Look, kind: _Kind) -> str:
    return (published_look(look) if kind.published else look).colour


def _five(values: Sequence[float]) -> tuple[float, ...]:
    """Return the least, the quartiles and the most."""
    middle = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return (min(values), *middle, max(values))


def written(axes: Axes, text: str, end: float, at: float) -> None:
    """Write a bar's value behind its end."""
    side = -1 if end < 0 else 1
    axes.annotate(
        text,
        (end, at),
        xytext=(3 * side, 0),
        textcoords="offset points",
        ha="right" if side < 0 else "left",
        va="center",
        fontsize=8,
    )


def named_rows(axes: Axes, groups: Sequence[str], middles: Sequence[float], label: str, *, half: float) -> None:
    """Name the groups down the left side, the first on top, each with room for half its height to either side."""
    axes.set_yticks(middles, groups)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.16)
    if middles:
        # A row without a bar has its room too.
        axes.set_ylim(middles[-1] + half + 0.1, middles[0] - half - 0.1)
    numbered(axes.xaxis)
    labelled(axes, label, "", empty=not groups)
