"""Which colour, marker and dash a strategy has: the same in every figure, told apart by the colour-blind and in grey.

Colours have a luminance of .12 to .3, so that they show on white paper and on a dark screen alike. So narrow a band
has few hues that the colour-blind tell apart, and none that differ in grey. So a hue is a library's, near Okabe and
Ito's (Color Universal Design, 2008), any two strategies of this suite differ in their markers, and those of one hue in
their dashes too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

GREY = "#767676"
"""Of text, axes and whatever is nobody's: 4.5 times as bright or as dark as either ground (WCAG 2.2, 1.4.3)."""

_SOLID: tuple[float, ...] = ()
_LONG = (7.0, 2.0)
_DASH_DOT = (7.0, 2.0, 1.5, 2.0)
_DOTS = (1.5, 1.5)
PUBLISHED_DASH = (3.5, 3.0)
"""Of what others published; no strategy has it."""

Fill = Literal["full", "none", "left"]
"""Of a marker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How one strategy is drawn."""

    colour: str
    """`#rrggbb`."""
    marker: str
    """As matplotlib names it."""
    dash: tuple[float, ...]
    """Lengths of dashes and gaps in turn, in widths of the line; empty is a line without gaps."""


FIXED = {
    "dp": Look(colour="#a87b00", marker="X", dash=_DASH_DOT),
    "ddp": Look(colour="#0072b2", marker="o", dash=_SOLID),
    "fsdp1": Look(colour="#d55e00", marker="s", dash=_LONG),
    "fsdp2": Look(colour="#b8400a", marker="D", dash=_SOLID),
    "hsdp": Look(colour="#c8551e", marker="8", dash=_DOTS),
    "fairscale_fsdp": Look(colour="#a8518a", marker="P", dash=_LONG),
    "fairscale_sdp": Look(colour="#c872a4", marker="p", dash=_DOTS),
    "zero1": Look(colour="#009e73", marker="^", dash=_SOLID),
    "zero2": Look(colour="#2f8f4e", marker=">", dash=_LONG),
    "zero3": Look(colour="#007a5e", marker="v", dash=_DASH_DOT),
    "zero3_hpz": Look(colour="#3d8f66", marker="H", dash=_DOTS),
}
"""Of this suite's own strategies."""

PARTS = (
    ("#7aa6d8", ""),
    ("#e0a03c", ""),
    ("#e0a03c", "/////"),
    ("#a9c77a", ""),
    ("#b9a6d9", ""),
    ("#b9a6d9", "xxxxx"),
    ("none", "\\\\\\\\"),
)
"""Fill and hatch of the parts of a whole, in their order, such as of a step's time. They are paler than strategies',
so that no part is taken for one, and what colours do not tell apart, hatches do."""

_HUES = ("#1b8a9e", "#c2477f", "#6b7f1e", "#7b68c8", "#8c6d31")
_MARKERS = ("<", "*", "d", "h")
_DASHES = (_SOLID, _LONG, _DASH_DOT, _DOTS)
_PLAIN = ("ddp", "fsdp1", "zero1", "fairscale_sdp", "dp")


def look_of(strategy: str) -> Look:
    """Return the look of a strategy; one that is not this suite's has a look that its name alone decides."""
    if strategy in FIXED:
        return FIXED[strategy]
    digest = hashlib.sha256(strategy.encode()).digest()
    return Look(
        colour=_HUES[digest[0] % len(_HUES)],
        marker=_MARKERS[digest[1] % len(_MARKERS)],
        dash=_DASHES[digest[2] % len(_DASHES)],
    )


def look_at(place: int) -> Look:
    """Return the look of the n-th thing of a figure that shows no strategies, from 0."""
    return FIXED[_PLAIN[place % len(_PLAIN)]]


def variant(look: Look, turn: int) -> tuple[Look, Fill]:
    """Return how the n-th of several things of one strategy is drawn, from 0: its hue is kept, up to ten differ."""
    if turn < 2:
        return look, ("full", "none")[turn]
    again, place = divmod(turn - 2, len(_MARKERS))
    dash = _DASHES[(_DASHES.index(look.dash) + place + 1) % len(_DASHES)]
    return replace(look, marker=_MARKERS[place], dash=dash), ("full", "none")[again % 2]


def published_look(look: Look) -> Look:
    """Return the look of a published figure beside one's own: the same hue halfway to grey, dashed."""
    halves = zip(_channels(look.colour), _channels(GREY), strict=True)
    return Look(
        colour="#" + "".join(f"{(own + grey) // 2:02x}" for own, grey in halves),
        marker=look.marker,
        dash=PUBLISHED_DASH,
    )


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))
