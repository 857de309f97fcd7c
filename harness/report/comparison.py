"""Two stored runs beside each other as lines: what each of them is, a table for each model, and why a case is worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from harness.case import Case
from harness.plugins import Metric
from harness.report.lines import table, wrapped
from harness.report.terminal import same
from harness.stored.comparing import Compared
from harness.stored.history import StoredRun
from harness.stored.store import Stored

_NAMED = 3
"""More cases that one sentence holds for are counted."""
_NOT_KNOWN = "n/a"


def render(
    first: StoredRun, second: StoredRun, compared: Sequence[Compared], *, metrics: Sequence[Metric]
) -> Iterator[str]:
    """Yield the lines.

    Args:
        first: the run that is compared with.
        second: the run that is compared.
        compared: their cases.
        metrics: all of them; of those that have a limit, what changed is shown.
    """
    yield from _runs(first, second)
    yield ""
    yield from wrapped(counted(compared))
    for one in compared:
        if one.word == "worse":
            yield from wrapped(f"  {one.case}: {one.worse[0]}")
    gated = [metric for metric in metrics if metric.limit is not None]
    for model in dict.fromkeys(one.case.model for one in compared):
        yield ""
        yield from _table(model, [one for one in compared if one.case.model == model], gated)
    yield ""
    yield from wrapped(_LEGEND)
    for name, there, other in (("first", first, second), ("second", second, first)):
        if only := [str(case) for case in there.cases if case not in other.cases]:
            told = ", ".join(only[:_NAMED]) + (f" and {len(only) - _NAMED} more" if len(only) > _NAMED else "")
            yield from wrapped(f"only in the {name} run: {told}")


_LEGEND = (
    "step: against the same work in a plain loop beside it, second run over first, with its 95 % interval; sees: a "
    "change so large is found 99 times in 100. Of 100 comparisons of equal runs one would tell of any change. "
    "same: as each run was certified, = bit for bit, ~ within rounding, NO not the same training"
)


def counted(compared: Sequence[Compared]) -> str:
    """Return how many cases came to what, in a sentence."""
    words = Counter(one.word for one in compared)
    parts = ", ".join(
        f"{words[word]} {word}" for word in ("worse", "better", "alike", "unsure", "refused") if words[word]
    )
    return f"{len(compared)} case{'s' * (len(compared) != 1)} in both runs: {parts}"


def _runs(first: StoredRun, second: StoredRun) -> Iterator[str]:
    rows = [
        [word, run.name, f"{run.at:%Y-%m-%d %H:%M}", run.commit[:10] or "uncommitted", str(len(run.cases))]
        for word, run in (("first", first), ("second", second))
    ]
    yield from table(["", "run", "when", "commit", "cases"], rows, left=(0, 1, 2, 3))
    ours, theirs = (next(iter(run.cases.values())).result.versions for run in (second, first))
    changes = [
        f"{name} {theirs.get(name, 'none')} -> {ours.get(name, 'none')}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if changes:
        yield from wrapped(f"versions: {', '.join(changes)}")
    if first.host != second.host:
        yield from wrapped(
            f"{first.host} and {second.host} are other machines: what belongs to a machine, its time and its memory "
            "peaks, is not compared; traffic, model state, operations, certificates and gross losses of speedup are"
        )


def _table(model: str, compared: Sequence[Compared], gated: Sequence[Metric]) -> Iterator[str]:
    shown = [metric for metric in gated if any(_value(metric, one.after) is not None for one in compared)]
    head = [model, "step", "95 % interval", "sees", "speedup", *(metric.title for metric in shown), "same", "verdict"]
    rows = [
        [one.case.id.removeprefix(f"{model}-"), *_times(one), *(_moved(m, one) for m in shown), _same(one), one.word]
        for one in compared
    ]
    left = (0, len(head) - 2, len(head) - 1)
    yield from table(head, rows, left=left, optional=(3, *range(len(head) - 3, 4, -1)))
    sentences: dict[str, list[str]] = {}
    for one in compared:
        for sentence in (*one.worse, *one.better, *one.notes):
            sentences.setdefault(sentence, []).append(one.case.id.removeprefix(f"{model}-"))
    for sentence, cases in sentences.items():
        names = ", ".join(cases) if len(cases) <= _NAMED else f"{len(cases)} cases"
        yield from wrapped(f"  {names}: {sentence}")


def _times(one: Compared) -> list[str]:
    step = one.primary
    speedup = next((change for change in one.changes if change.view == "speedup"), None)
    told = [_NOT_KNOWN] * 3
    if step is not None:
        told = [f"{step.estimate:+.1%}", f"{step.low:+.1%} to {step.high:+.1%}", f"{step.sees:.0%}"]
    return [*told, _NOT_KNOWN if speedup is None else f"{speedup.estimate:+.1%}"]


def _value(metric: Metric, stored: Stored) -> float | None:
    return metric.value(stored.result, stored.reference)


def _moved(metric: Metric, one: Compared) -> str:
    """Return how a figure changed, in words."""
    before, after = _value(metric, one.before), _value(metric, one.after)
    if one.word == "refused" or before is None or after is None:
        return _NOT_KNOWN
    return "=" if before == after else f"{(after - before) / abs(before):+.1%}" if before else metric.show(after)


def _same(one: Compared) -> str:
    signs = ["-" if stored.certificate is None else same(stored.certificate) for stored in (one.before, one.after)]
    return signs[0] if signs[0] == signs[1] else " -> ".join(signs)


def next_steps(second: StoredRun, compared: Sequence[Compared]) -> Iterator[str]:
    """Yield the command that runs again what is worse, where there is any."""
    worse = [one.case for one in compared if one.word == "worse"]
    tests: Mapping[Case, str] = second.tests
    if worse:
        yield ""
        yield "look again at what is worse:"
        for case in worse[:_NAMED]:
            yield f'    pytest "{tests[case]}" --benchmark-compare'
