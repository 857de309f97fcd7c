"""Each metric of a result against the stored ones by the rule of its layer, and the verdict on the case. Pure.

The layers: `exact` figures have no noise (`exact`, `portable`); `tight` ones almost none, and a limit; `accuracy` has
the noise of its seeds, and a margin; `time` has the machine's, and is decided from samples of its own (`timing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from harness.gate import equivalence
from harness.gate.exact import Exact, device_kind
from harness.gate.timing import TimeVerdict
from harness.plugins import Limit, Metric
from harness.results import Result

Word = Literal[
    "uncertified", "mispredicted", "regressed", "incomparable", "unresolved", "improved", "passed", "new", "vanished"
]

_WORST_FIRST: tuple[Word, ...] = get_args(Word)
WORSE: tuple[Word, ...] = ("uncertified", "mispredicted", "regressed")
"""With these a case fails, whatever the run is for."""
OPEN: tuple[Word, ...] = ("incomparable", "unresolved", "new", "vanished")
"""With these it could not be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one gated metric."""

    metric: Metric
    word: Word
    baseline: float | None
    measured: float | None
    rule: str
    """What it was held to, in words."""
    advisory: bool = False
    """Whether it is said and does not fail the case."""

    def sentence(self) -> str:
        """The finding in words: what, how much, against what."""
        if self.baseline is None or self.measured is None:
            shown = "n/a" if self.baseline is None else self.metric.show(self.baseline)
            return f"{self.metric.name} could not be measured; the baseline has {shown}"
        change = (self.measured - self.baseline) / abs(self.baseline) if self.baseline else 0.0
        return (
            f"{self.metric.name} {self.word}: {self.metric.show(self.measured)} against "
            f"{self.metric.show(self.baseline)}, {change:+.1%} ({self.rule})"
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
    portable: tuple[str, ...] = ()
    """What differs of the figures that another machine's run knows too."""
    time: TimeVerdict | None = None
    """None where the time was not judged; `note` says why."""
    reasons: tuple[str, ...] = ()
    """Of a verdict that a stored run holds, which has nothing else: why, a sentence each."""


def judge(result: Result, *, level: Sequence[Result], metrics: Iterable[Metric]) -> Verdict:
    """Return the verdict of the tight and the accuracy layer; `new` when there is nothing to hold a result against.

    Args:
        result: of the case.
        level: the stored results it is held to, newest first.
        metrics: all of them; of other layers, or without a limit, none is judged here.
    """
    if not level:
        return Verdict(word="new")
    findings = tuple(found for metric in metrics if (found := _finding(metric, result, level)) is not None)
    return Verdict(
        word=worst(["passed", *(finding.word for finding in findings if not finding.advisory)]), findings=findings
    )


def with_exact(verdict: Verdict, exact: Exact) -> Verdict:
    """Return the verdict with what differs exactly: a regression, unless another version of a library may be why."""
    if not exact.changes:
        return verdict
    word: Word = verdict.word if exact.versions else worst([verdict.word, "regressed"])
    return replace(verdict, word=word, exact=exact)


def with_portable(verdict: Verdict, differences: Sequence[str]) -> Verdict:
    """Return the verdict with what differs from another machine's run though it must not: a regression."""
    if not differences:
        return verdict
    return replace(verdict, word=worst([verdict.word, "regressed"]), portable=tuple(differences))


def with_time(verdict: Verdict, time: TimeVerdict) -> Verdict:
    """Return the verdict with that of the time layer."""
    return replace(verdict, word=worst([verdict.word, time.word]), time=time)


def worst(words: Iterable[Word]) -> Word:
    """Return the word that says the worst; what is `new` in one layer alone is not new."""
    return min(words, key=_WORST_FIRST.index)


def _finding(metric: Metric, result: Result, level: Sequence[Result]) -> Finding | None:
    if metric.limit is None or metric.layer not in ("tight", "accuracy"):
        return None
    before, after = metric.value(level[0], None), metric.value(result, None)
    if before is None:
        return None
    if after is None:
        # What could be measured once and cannot be now is worse, not unknown.
        return Finding(metric=metric, word="regressed", baseline=before, measured=None, rule="")
    limit = metric.limits_on.get(device_kind(result), metric.limit)
    if metric.layer == "accuracy":
        if _deterministic(result, level):
            limit = Limit()
        elif limit.absolute and (paired := _over_seeds(metric, limit, result, level[0])) is not None:
            return paired
    worse = _drop(metric, before, after)
    allowed = max(limit.relative * abs(before), limit.absolute)
    word: Word = "regressed" if worse > allowed else "improved" if -worse > allowed else "passed"
    rule = f"limit {_limit(metric, limit)}" if allowed else "runs of this case are equal to the last digit"
    return Finding(metric=metric, word=word, baseline=before, measured=after, rule=rule, advisory=limit.advisory)


def _over_seeds(metric: Metric, limit: Limit, result: Result, baseline: Result) -> Finding | None:
    """Return the finding by paired seeds, where both runs have two or more: is the metric not inferior?

    Worse by more than the margin, and more than the seeds scatter, is `regressed`; where a loss as large as the margin
    cannot be excluded (one-sided, 95 %), it is `unresolved`.
    """
    pairs = list(zip(baseline.last_scores(metric.name), result.last_scores(metric.name), strict=False))
    scored = [(before, after) for before, after in pairs if before is not None and after is not None]
    if len(scored) < 2:
        return None
    sign = 1.0 if metric.better == "higher" else -1.0
    test = equivalence.compare(
        [sign * before for before, _ in scored], [sign * after for _, after in scored], margin=limit.absolute
    )
    assert test.difference is not None
    narrow = test.interval90 or (test.difference, test.difference)
    wide = test.interval95 or (test.difference, test.difference)
    word: Word
    if wide[0] > 0 and test.difference > test.margin:
        word = "regressed"
    elif narrow[1] > test.margin:
        word = "unresolved"
    else:
        word = "improved" if wide[1] < 0 and -test.difference > test.margin else "passed"
    before, after = (sum(values) / len(scored) for values in zip(*scored, strict=True))
    rule = f"margin {metric.show(test.margin)} over {len(scored)} paired seeds"
    return Finding(metric=metric, word=word, baseline=before, measured=after, rule=rule)


def _deterministic(result: Result, level: Sequence[Result]) -> bool:
    """Return whether runs of the case were seen to be equal to the last digit, and this one has no reason not to be."""
    seen = {(_course(one), one.host, one.hardware, tuple(sorted(one.versions.items()))) for one in level}
    ours = (result.host, result.hardware, tuple(sorted(result.versions.items())))
    return len(level) > 1 and len(seen) == 1 and next(iter(seen))[1:] == ours


def _course(result: Result) -> tuple[object, ...]:
    """Return all losses and scores of the training with the first seed."""
    scores = tuple(tuple(sorted((epoch.scores or {}).items())) for epoch in result.lead.epochs)
    return tuple(rank.loss for rank in result.ranks), scores


def _drop(metric: Metric, before: float, after: float) -> float:
    return after - before if metric.better == "lower" else before - after


def _limit(metric: Metric, limit: Limit) -> str:
    relative = f"{100 * limit.relative:g}%" if limit.relative else ""
    return " or ".join(filter(None, (relative, metric.show(limit.absolute) if limit.absolute else "")))
