"""What the self-test found: the noise of unchanged cases, and whether the gate can rely on it."""

from __future__ import annotations

from collections.abc import Iterator

from harness.gate.policy import Policy
from harness.gate.selftest import LEAST_IN_ALL, WHITE_Z, Scatter, Selftest
from harness.report.lines import table, wrapped


def render(found: Selftest, *, policy: Policy) -> Iterator[str]:
    """Yield the lines of the section.

    Args:
        found: by the self-test.
        policy: that the halves were judged by.
    """
    if found.cases:
        head = ["case", "processes", "differ by", "rounds by", "lag 1", "trend", "sees", "held to itself"]
        rows = [_row(name, one) for name, one in found.cases.items()]
        yield from table(head, rows, left=(0, len(head) - 1), optional=(5, 4, 3))
    yield from wrapped(
        "Unchanged code: the ratio of a case's step to the same work beside it. differ by: standard deviation of the "
        "means of processes; lag 1, trend: their autocorrelation, and correlation with their order; sees: the slowdown "
        f"that policy {policy.name} would find with half of these as baseline; held to itself: every second process "
        "against the others."
    )
    yield from wrapped(f"{_WORDS[found.word]} (lag 1 {found.lag1_z:+.1f}, trend {found.trend_z:+.1f} deviates).")
    if found.alarms:
        yield from wrapped(f"Said to have changed, though nothing did: {', '.join(found.alarms)}")


_WORDS = {
    "white": f"Processes are independent of each other, as the gate takes them to be: beyond {WHITE_Z:g} they were not",
    "not white": f"NOT WHITE: processes depend on each other, beyond {WHITE_Z:g}; until a later self-test finds "
    "otherwise no time of this machine is gated",
    "cannot tell": f"Fewer than {LEAST_IN_ALL} processes cannot tell if they depend on each other: name more cases",
}


def _row(name: str, one: Scatter) -> list[str]:
    effect = next((effect for effect in one.verdict.effects if effect.view == "same work"), None)
    return [
        name,
        str(one.processes),
        f"{one.between:.1%}",
        "n/a" if one.rounds is None else f"{one.rounds:.1%}",
        f"{one.lag1:+.2f}",
        f"{one.trend:+.2f}",
        f"{effect.mde:.0%}" if effect else "n/a",
        one.verdict.word,
    ]
