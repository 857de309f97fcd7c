"""Stretches of time as pairs of begin and end: their union, what two have in common, what one has alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[float, float]
"""Begin and end, in one unit on one clock."""


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the union, in order, none touching the next; spans without length are left out."""
    union: list[Span] = []
    for begin, end in sorted(span for span in spans if span[1] > span[0]):
        if union and begin <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((begin, end))
    return union


def length(spans: Iterable[Span]) -> float:
    """Return the length of a union of spans."""
    return sum(end - begin for begin, end in merged(spans))


def inside(spans: Iterable[Span], window: Span) -> list[Span]:
    """Return what of the union lies inside a window."""
    first, last = window
    return merged((max(begin, first), min(end, last)) for begin, end in spans)


def without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """Return what of the union lies outside the union of the others."""
    holes: Sequence[Span] = merged(others)
    left: list[Span] = []
    at = 0
    for begin, end in merged(spans):
        while at < len(holes) and holes[at][1] <= begin:
            at += 1
        here = at  # a hole may reach into several spans, so `at` stays
        while here < len(holes) and holes[here][0] < end:
            left.append((begin, holes[here][0]))
            begin = holes[here][1]
            here += 1
        left.append((begin, end))
    return merged(left)
