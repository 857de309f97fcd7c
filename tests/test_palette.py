"""Every strategy has one look, and no two are taken for each other: by the colour-blind, in grey, on dark."""

from __future__ import annotations

import itertools
import math

import pytest

from harness.figures.palette import FIXED, GREY, PUBLISHED_DASH, Look, look_at, look_of, published_look, variant
from harness.registry import discover

# Linear RGB as those without one kind of cone see it: Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009.
VISIONS = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}
WEIGHTS = (0.2126, 0.7152, 0.0722)
WHITE, DARK = 1.0, 0.0056  # luminance of paper, and of #0d1117
NAMES = [f"mine_{number}" for number in range(40)]


def _linear(colour):
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def _luminance(colour):
    return sum(w * c for w, c in zip(WEIGHTS, _linear(colour), strict=True))


def _lab(colour, vision):
    """Return CIELAB, white D65, of a colour as it is seen."""
    own = _linear(colour)
    red, green, blue = (
        min(1.0, max(0.0, sum(m * c for m, c in zip(row, own, strict=True)))) for row in VISIONS[vision]
    )
    x = (0.4124564 * red + 0.3575761 * green + 0.1804375 * blue) / 0.95047
    y = 0.2126729 * red + 0.7151522 * green + 0.0721750 * blue
    z = (0.0193339 * red + 0.1191920 * green + 0.9503041 * blue) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def _apart(one, other, vision):
    """Return how far apart two colours are, CIE 1976; 2.3 is just noticed side by side."""
    return math.dist(_lab(one, vision), _lab(other, vision))


def _confused(one: Look, other: Look) -> list[str]:
    """Return by whom two looks are told apart by less than two of colour, marker and dash."""
    by_form = (one.marker != other.marker) + (one.dash != other.dash)
    by_colour = {vision: _apart(one.colour, other.colour, vision) > 15 for vision in VISIONS}
    return [vision for vision, differ in by_colour.items() if by_form + differ < 2]


@pytest.mark.parametrize("pair", list(itertools.combinations(FIXED, 2)), ids="-".join)
def test_any_two_strategies_differ_in_two_of_colour_marker_and_dash_to_everyone(pair):
    assert _confused(*map(look_of, pair)) == []


def test_in_grey_markers_alone_tell_all_strategies_apart():
    assert len({look.marker for look in FIXED.values()}) == len(FIXED)


def test_looks_that_only_a_normal_eye_tells_apart_would_be_seen():
    red, green = (Look(colour=colour, marker="o", dash=()) for colour in ("#c8483c", "#7d7d2d"))
    assert _apart(red.colour, green.colour, "normal") > 30
    assert "deuteranopia" in _confused(red, green)


def test_the_fixed_looks_are_those_of_this_suites_own_strategies():
    assert FIXED.keys() == discover().strategies.keys()


def test_a_strategy_of_ones_own_always_has_the_same_look_and_none_of_this_suites():
    looks = [look_of(name) for name in NAMES]
    assert look_of("mine_0") == Look(colour="#8c6d31", marker="d", dash=(7.0, 2.0)), "it decides by nothing else"
    assert {look.marker for look in looks}.isdisjoint(look.marker for look in FIXED.values())
    assert len({(look.colour, look.marker, look.dash) for look in looks}) > 25


@pytest.mark.parametrize("name", [*FIXED, *NAMES])
@pytest.mark.parametrize("change", [lambda look: look, published_look], ids=["own", "published"])
def test_every_colour_shows_on_paper_and_on_a_dark_screen(name, change):
    luminance = _luminance(change(look_of(name)).colour)
    # WCAG 2.2, 1.4.11: 3 to 1 for what must be seen.
    assert (WHITE + 0.05) / (luminance + 0.05) >= 3
    assert (luminance + 0.05) / (DARK + 0.05) >= 3


def test_text_is_readable_on_paper_and_on_a_dark_screen():
    assert (WHITE + 0.05) / (_luminance(GREY) + 0.05) >= 4.5
    assert (_luminance(GREY) + 0.05) / (DARK + 0.05) >= 4


@pytest.mark.parametrize("name", FIXED)
def test_what_is_published_keeps_marker_and_hue_and_is_greyer_and_dashed(name):
    own, theirs = look_of(name), published_look(look_of(name))
    assert (theirs.marker, theirs.dash) == (own.marker, PUBLISHED_DASH)
    assert PUBLISHED_DASH not in [look.dash for look in FIXED.values()]
    (_, a, b), (_, greyer_a, greyer_b) = _lab(own.colour, "normal"), _lab(theirs.colour, "normal")
    assert math.hypot(greyer_a, greyer_b) < 0.75 * math.hypot(a, b)
    assert abs(math.remainder(math.atan2(b, a) - math.atan2(greyer_b, greyer_a), math.tau)) < 0.5


def test_things_that_are_no_strategies_differ_by_their_place():
    assert len({look_at(place).colour for place in range(5)}) == 5
    assert look_at(7) == look_at(2)


@pytest.mark.parametrize("name", [*FIXED, "mine_0"])
def test_ten_things_of_one_strategy_have_its_hue_and_are_told_apart(name):
    looks = [variant(look_of(name), turn) for turn in range(10)]
    assert looks[0] == (look_of(name), "full")
    assert {look.colour for look, _ in looks} == {look_of(name).colour}
    assert len({(look.marker, look.dash, fill) for look, fill in looks}) == 10
