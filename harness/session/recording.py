"""Measured times and results into pytest-benchmark, so that its tables and files hold what the ranks saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from harness.report.verdicts import why
from harness.running.pipeline import Outcome
from harness.session.told import told_seconds
from harness.stored import store


class ReplayClock:
    """A timer for pytest-benchmark that tells times measured elsewhere.

    pytest-benchmark reads a timer before and after each round; the reading before is 0 and the one after is the
    recorded time, so that nothing is lost to rounding.
    """

    def __init__(self) -> None:
        self._times: Iterator[float] = iter(())
        self._now = 0.0

    def __call__(self) -> float:
        """Tell the time, and be at 0 for the next reading."""
        now, self._now = self._now, 0.0
        return now

    def __repr__(self) -> str:
        """Name it as stored runs do, which hold the timer among the options."""
        return "times measured by the ranks"

    def load(self, seconds: Sequence[float]) -> None:
        """Take the times to tell, one a round."""
        self._times = iter(seconds)

    def next_step(self) -> None:
        """Be the function that is timed: go on by the next recorded time."""
        self._now = next(self._times)


def record(benchmark: Any, outcome: Outcome, node: pytest.Item) -> None:
    """Record a case: its seconds as the benchmark's, and everything else beside them.

    With processes of the time layer those are one for each: the mean ratio of the case's step to the same work beside
    it, times the seconds that this work took in the first run of the level. So what pytest-benchmark's own comparison
    makes of them is what changed in the case, not in the machine. Without, they are the step times.
    """
    # The case itself is no JSON; its axes are.
    benchmark.params = outcome.case.axes
    benchmark.extra_info.update(
        store.pack(
            outcome.result,
            outcome.reference,
            outcome.certificate,
            verdict=outcome.verdict.word,
            reasons=why(outcome),
        )
    )
    replay(benchmark, node, told_seconds(outcome.result))


def replay(benchmark: Any, node: pytest.Item, seconds: Sequence[float]) -> None:
    """Let the benchmark of a test, whose mark holds a `ReplayClock`, tell measured seconds."""
    mark = node.get_closest_marker("benchmark")
    assert mark is not None, "a test that replays times needs @pytest.mark.benchmark(timer=ReplayClock())"
    clock: ReplayClock = mark.kwargs["timer"]
    clock.load(seconds)
    if benchmark.enabled and seconds:
        benchmark.pedantic(clock.next_step, rounds=len(seconds), iterations=1)
