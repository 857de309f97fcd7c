"""What the gate says: why a case fails, with what to do about it, and at the end what became of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from harness.anatomy import budget
from harness.anatomy.budget import WORDS, Budget
from harness.gate.policy import Policy
from harness.gate.timing import Effect, sees
from harness.report import certificates, memory
from harness.report.lines import table, wrapped
from harness.running.pipeline import Outcome

_LEAST_GROWTH_S = 1e-4
"""A part of the step that grew by less is not named as a cause."""


def failure(outcome: Outcome, again: str, *, accept: str) -> Iterator[str]:
    """Yield why a case fails or could not be judged, what may be the cause, and the commands to go on with.

    Args:
        outcome: of the case.
        again: the command that runs its test again.
        accept: the options that make what was measured the new baseline.
    """
    verdict, case = outcome.verdict, outcome.case
    if not outcome.certificate.granted:
        yield from certificates.refusal(outcome.certificate)
        yield _line("rerun", again)
        yield from _search(outcome, again)
        return
    if outcome.memory is not None and outcome.memory.causes:
        yield f"{case}: its memory is not what {case.strategy} must keep"
        yield from memory.notes(outcome.memory)
        yield _line("rerun", f"{again} --accounted")
        return
    yield f"{case}: {_headline(outcome)}"
    if verdict.time is not None:
        if verdict.time.word not in ("regressed", "improved"):  # of these the effects say it all
            yield from (_line("time", reason) for reason in verdict.time.reasons)
        if verdict.time.word != "passed":
            yield from _effects(verdict.time.effects)
        if verdict.time.processes_needed is not None:
            yield _line("needs", f"{verdict.time.processes_needed} processes of it would show what is demanded")
    yield from (_line("why", reason) for reason in verdict.reasons)
    yield from (_line("figure", sentence) for sentence in _figures(outcome))
    yield from (_line("cause", cause) for cause in causes(outcome))
    if verdict.note:
        yield _line("note", verdict.note)
    yield from _baseline(outcome)
    yield _line("rerun", f"{again} --benchmark-compare")
    yield _line("accept", f"{again} {accept}")
    if verdict.word == "regressed":
        yield from _search(outcome, again)


def causes(outcome: Outcome) -> Iterator[str]:
    """Yield what else changed that may be why: exact figures, and where both runs were traced, parts of the step."""
    exact = outcome.verdict.exact
    if exact is not None:
        yield from (f"exact figures: {change}" for change in exact.changes)
        yield from (f"another version: {version}" for version in exact.versions)
    yield from outcome.verdict.portable
    newest = outcome.baseline.newest
    if newest is not None and newest.result.traces and outcome.result.traces:
        yield from _grown(
            budget.mean(budget.budgets(newest.result.traces)), budget.mean(budget.budgets(outcome.result.traces))
        )


def render(
    outcomes: Sequence[Outcome], *, policy: Policy, cost_s: float, said: Iterable[str], accept: str, full: bool
) -> Iterator[str]:
    """Yield the lines of the section: the verdicts counted, what is not plainly passed, and what could be seen.

    Args:
        outcomes: of all cases.
        policy: by which the time was judged.
        cost_s: seconds that the processes took.
        said: what is odd about the run as a whole.
        accept: the options that make what was measured the new baseline.
        full: whether cases that passed are told one by one too.
    """
    counts = Counter(outcome.verdict.word for outcome in outcomes)
    yield from wrapped(", ".join(f"{count} {word}" for word, count in counts.most_common()))
    for note, count in Counter(o.baseline.note for o in outcomes if o.verdict.word in ("new", "incomparable")).items():
        yield from wrapped(f"{note} ({count} case{'s' * (count > 1)}); to hold later runs to this one: {accept}")
    timed = [outcome for outcome in outcomes if outcome.verdict.time is not None and outcome.result.samples]
    if timed:
        processes = sum(len(outcome.result.samples) for outcome in timed)
        yield from wrapped(
            f"policy {policy.name}: {processes} processes of {len(timed)} cases, {cost_s:.0f} s; "
            "a case's step against the same work in a plain loop beside it"
        )
    yield from (line for sentence in said for line in wrapped(f"note: {sentence}"))
    seen = [effect.mde for outcome in timed if (effect := primary(outcome)) is not None]
    if seen:
        yield from wrapped(
            f"a case sees a slowdown of {sees(min(seen))} to {sees(max(seen))}, half of them {sees(median(seen))} "
            "or less: so large a one is found 99 times in 100, and fewer than 1 run in 100 reports one that is none"
        )
    told = [one for one in outcomes if full or _tells(one)]
    if told:
        yield ""
        head = ["case", "verdict", "step", "95 % interval", "sees"]
        yield from table(head, [*map(_row, told)], left=(0, 1), optional=(4, 1))
    # What is true of many cases is said once.
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.verdict.word not in _PLAIN and (sentences := why(outcome)):
            reasons.setdefault("; ".join(sentences), []).append(outcome.case.id)
    for reason, cases in reasons.items():
        names = ", ".join(cases) if len(cases) <= _NAMED else f"{len(cases)} cases"
        yield from wrapped(f"  {names}: {reason}")


_PLAIN = ("passed", "new")
_NAMED = 3
"""More cases that one reason holds for are counted."""


def _tells(outcome: Outcome) -> bool:
    """Return whether a case has more to say than why its time was not looked at."""
    word = outcome.verdict.word
    return word not in _PLAIN and (word != "unresolved" or primary(outcome) is not None)


def primary(outcome: Outcome) -> Effect | None:
    """Return the effect that a case's row shows."""
    time = outcome.verdict.time
    return next((one for one in time.effects if one.view in ("same work", "machine")), None) if time else None


def _row(outcome: Outcome) -> list[str]:
    effect = primary(outcome)
    return [
        outcome.case.id,
        outcome.verdict.word,
        f"{effect.estimate:+.1%}" if effect else "n/a",
        f"{effect.low:+.1%} to {effect.high:+.1%}" if effect else "n/a",
        sees(effect.mde) if effect else "n/a",
    ]


def why(outcome: Outcome) -> list[str]:
    """Return every reason for a verdict, a sentence each; none where nothing is known beyond its word."""
    time = outcome.verdict.time
    return [*outcome.verdict.reasons, *(time.reasons if time else ()), *_figures(outcome), *causes(outcome)]


def _figures(outcome: Outcome) -> Iterator[str]:
    for finding in outcome.verdict.findings:
        if finding.word != "passed":
            yield finding.sentence() + (", advisory" if finding.advisory else "")


def _headline(outcome: Outcome) -> str:
    word = outcome.verdict.word
    if word == "new":
        return "new: nothing is stored of it" + (f" ({outcome.baseline.note})" if outcome.baseline.note else "")
    if word == "incomparable":
        return f"incomparable: {outcome.baseline.note or 'what is stored of it cannot be compared'}"
    return {"regressed": "regressed against the stored runs", "unresolved": "could not be judged"}.get(word, word)


def _effects(effects: Iterable[Effect]) -> Iterator[str]:
    for effect in effects:
        yield _line(
            effect.view,
            f"{effect.estimate:+.1%}, 95 % interval {effect.low:+.1%} to {effect.high:+.1%}, sees {sees(effect.mde)}; "
            f"{effect.new_processes} processes against {effect.against}",
        )


def _grown(before: Budget, after: Budget) -> Iterator[str]:
    for name, word in (WORDS | {"late_s": "waiting for a late rank"}).items():
        was, is_ = getattr(before, name), getattr(after, name)
        if was is not None and is_ is not None and is_ - was > max(_LEAST_GROWTH_S, 0.02 * before.step_s):
            yield f"traced: {word} {1e3 * was:.1f} -> {1e3 * is_:.1f} ms a step"


def _baseline(outcome: Outcome) -> Iterator[str]:
    level = outcome.baseline.level
    if level:
        newest = level[0].result
        runs = f", and {len(level) - 1} earlier of its level" if len(level) > 1 else ""
        yield _line("baseline", f"{level[0].where}{runs}: {newest.host}, torch {newest.versions.get('torch', 'n/a')}")


def _search(outcome: Outcome, again: str) -> Iterator[str]:
    """Yield how the commit is found that made a case worse, where it is known which one was good."""
    level, test = outcome.baseline.level, again.removeprefix("pytest ")
    if level and level[0].commit and test.startswith('"benches'):  # the tool is in the folder of the suite
        yield _line("bisect", f"tools/bisect --good {level[0].commit[:12]} -- {test}")


def _line(name: str, text: str) -> str:
    return f"  {name:9} {text}"
