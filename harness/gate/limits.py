"""Each metric of a result against the same metric of a stored one, by the metric's own limit. Pure.

This is the simple gate: one stored run against one new run, and limits wide enough for that. It states no error rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.gate.exact import Exact
from harness.plugins import Limit, Metric
from harness.results import Result

Word = Literal["passed", "regressed", "improved", "new", "mispredicted", "uncertified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one gated metric."""

    metric: Metric
    word: Word
    baseline: float | None
    measured: float | None

    def sentence(self) -> str:
        """The finding in words: what, how much, against what."""
        limit = self.metric.limit
        if self.baseline is None or self.measured is None:
            shown = "n/a" if self.baseline is None else self.metric.show(self.baseline)
            return f"{self.metric.name} could not be measured; the baseline has {shown}"
        change = (self.measured - self.baseline) / abs(self.baseline) if self.baseline else 0.0
        return (
            f"{self.metric.name} {self.word}: {self.metric.show(self.measured)} against "
            f"{self.metric.show(self.baseline)}, {change:+.1%} (limit {_limit(self.metric, limit)})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a case."""

    word: Word
    findings: tuple[Finding, ...] = ()
    note: str = ""
    """Why something was not judged."""
    exact: Exact | None = None
    """What differs of the figures without noise, if anything does."""


def judge(
    result: Result,
    reference: Result | None,
    *,
    baseline: Result | None,
    baseline_reference: Result | None,
    metrics: Iterable[Metric],
    disturbed: Sequence[str] = (),
) -> Verdict:
    """Return the verdict on a result; `new` when there is no baseline to hold it against.

    Where ranks share cores, or anything else disturbed them, the figures that time decides are not judged.

    Args:
        result: of the case.
        reference: that its speedup is taken against.
        baseline: the stored result.
        baseline_reference: that the stored speedup was taken against.
        metrics: all of them.
        disturbed: what disturbed the timing, in words.
    """
    if baseline is None:
        return Verdict(word="new")
    findings = []
    reasons = (["ranks shared cores"] if result.oversubscribed else []) + list(disturbed)
    for metric in metrics:
        if metric.limit is None or (reasons and metric.timed):
            continue
        before = metric.value(baseline, baseline_reference)
        if before is None:
            continue
        findings.append(_compare(metric, metric.limit, before, metric.value(result, reference)))
    words = {finding.word for finding in findings}
    word: Word = next((w for w in _WORST_FIRST if w in words), "passed")
    note = f"timing not gated: {'; '.join(reasons)}" if reasons else ""
    return Verdict(word=word, findings=tuple(findings), note=note)


def with_exact(verdict: Verdict, exact: Exact) -> Verdict:
    """Return the verdict with what differs exactly: a regression, unless another version of a library may be why."""
    if not exact.changes:
        return verdict
    word: Word = verdict.word if exact.versions else "regressed"
    return replace(verdict, word=word, exact=exact)


_WORST_FIRST: tuple[Word, ...] = ("regressed", "improved")


def _compare(metric: Metric, limit: Limit, before: float, after: float | None) -> Finding:
    if after is None:
        # What could be measured once and cannot be now is worse, not unknown.
        return Finding(metric=metric, word="regressed", baseline=before, measured=None)
    worse = after - before if metric.better == "lower" else before - after
    allowed = max(limit.relative * abs(before), limit.absolute)
    word: Word = "regressed" if worse > allowed else "improved" if -worse > allowed else "passed"
    return Finding(metric=metric, word=word, baseline=before, measured=after)


def _limit(metric: Metric, limit: Limit | None) -> str:
    if limit is None:
        return "none"
    parts = [f"{limit.relative:.0%}"] if limit.relative else []
    if limit.absolute:
        parts.append(metric.show(limit.absolute))
    return " or ".join(parts)
