"""The answer, before anything else: what got worse, what to take of each model and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.anatomy.advice import Advice, Candidate, gib, slower, told_apart
from harness.figures.figure import MISSING
from harness.figures.palette import look_of
from harness.report import answer
from harness.report.html.tables import kind_of
from harness.report.reported import Run

_NAMED = 3
"""Of strategies that are not told apart; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A strategy that is recommended."""

    name: str
    colour: str
    figure: str
    """What it is recommended for, with its unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to take of one model on so many GPUs."""

    model: str
    gpus: int
    batch: int
    """Over all GPUs."""
    fastest: Pick | None
    leanest: Pick | None
    sure: str
    certified: str
    shared: bool
    """Whether ranks shared cores, so that its speeds say little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A test that failed: what it said, and how to run it again."""

    name: str
    why: str
    said: str
    rerun: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The top of the page."""

    headline: str
    kind: str
    """bad, open or plain."""
    counts: tuple[tuple[str, int, str], ...]
    """Verdicts with their number and looks."""
    choices: tuple[Choice, ...]
    failed: tuple[Failed, ...]
    steps: tuple[tuple[str, str], ...]
    """What to do next: purposes and commands."""
    facts: tuple[tuple[str, str], ...]
    """On the run."""
    skipped: tuple[tuple[str, tuple[str, ...]], ...]
    """Reasons, and the tests that were skipped for each."""


def of_run(run: Run) -> Overview:
    """Return the top of the page of a run."""
    looks = {"out of memory": "open", "failed to run": "bad"}
    counted = tuple((word, count, looks.get(word) or kind_of(word)) for word, count in answer.became(run).items())
    failed = tuple(_failed(run))
    kind = "bad" if failed else "open" if any(looks == "open" for *_, looks in counted) else "plain"
    return Overview(
        headline=_headline(run, len(failed)),
        kind=kind,
        counts=counted,
        choices=tuple(_choices(run)),
        failed=failed,
        steps=tuple(answer.next_steps(run, reported=True)),
        facts=tuple((name, text) for name, text in _facts(run) if text),
        skipped=tuple(_skipped(run)),
    )


def _headline(run: Run, failed: int) -> str:
    cases = sum(answer.became(run).values())
    if not cases:
        return "No case was run"
    told = f"{cases} case{'s' * (cases != 1)}"
    if failed:
        return f"{failed} of {told} got worse or failed"
    open_ = len(run.undecided)
    judged = f"; {open_} could not be judged" if open_ else ""
    return f"Nothing got worse in {told}{judged}"


def _failed(run: Run) -> Iterator[Failed]:
    for outcome in run.worse:
        test = run.tests.get(outcome.case, outcome.case.id)
        said = run.failed.get(test, "")
        yield Failed(name=outcome.case.id, why=answer.reason(outcome), said=said, rerun=_rerun(run, test))
    for test, said in run.broken.items():
        yield Failed(name=test, why=said.partition("\n")[0], said=said, rerun=_rerun(run, test))


def _rerun(run: Run, test: str) -> str:
    return f"{run.rerun(test)} --benchmark-compare"


def _choices(run: Run) -> Iterator[Choice]:
    for advice in answer.advised(run, run.outcomes):
        shared = any(one.oversubscribed for one in advice.counted)
        yield Choice(
            model=advice.model,
            gpus=advice.gpu_count,
            batch=advice.global_batch_size,
            fastest=_pick(advice.fastest, _speed(advice.fastest)),
            leanest=_pick(advice.leanest, _size(advice.leanest)),
            sure=_sure(advice, shared=shared),
            certified=_certified(advice),
            shared=shared,
        )


def _pick(one: Candidate | None, figure: str) -> Pick | None:
    if one is None:
        return None
    return Pick(name=one.name, colour=look_of(one.case.strategy).colour, figure=figure)


def _speed(one: Candidate | None) -> str:
    return MISSING if one is None or one.step_s is None else f"{one.step_s * 1e3:.1f} ms a step"


def _size(one: Candidate | None) -> str:
    return MISSING if one is None or one.memory_bytes is None else gib(one.memory_bytes)


def _sure(advice: Advice, *, shared: bool) -> str:
    """Return how sure it is that the fastest is."""
    fastest = advice.fastest
    if fastest is None or fastest.step_s is None:
        return "nothing to choose: " + "; ".join(advice.sentences)
    if shared:
        return "not at all: more ranks than cores, so that these times say little"
    others = [one for one in advice.counted if one is not fastest]
    disturbed = "; disturbed while it was timed" if fastest.disturbed else ""
    if not others:
        return f"the only one that counts{disturbed}"
    count = len(others)
    alike = [one.name for one in others if not told_apart(one, fastest, others=count)]
    if alike:
        return f"not told apart from {_named(alike)}{disturbed}"
    return f"told apart from all: {others[0].name}, the next, is {slower(others[0], fastest, others=count)}{disturbed}"


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _certified(advice: Advice) -> str:
    count = len(advice.counted) + len(advice.refused)
    if not advice.refused:
        return f"all {count}" if count > 1 else "yes"
    names = _named([one.name for one, _ in advice.refused])
    return f"{len(advice.counted)} of {count}; not {names}"


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "machine", f"{run.host}: {run.machine}"
    yield "profile", run.profile + (f": {run.about}" if run.about else "")
    if run.started_unix_s is not None:
        yield "begun", datetime.fromtimestamp(run.started_unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    yield "code", f"commit {run.commit}" if run.commit else "of no commit: there were changes that no commit holds"
    yield "software", ", ".join(f"{name} {version}" for name, version in run.software.items())
    yield "policy", run.policy
    yield "options", "; ".join(f"{name} {text}" for name, text in run.options.items())
    yield "exit status", "" if run.exit_code is None else f"{int(run.exit_code)}"


def _skipped(run: Run) -> Iterator[tuple[str, tuple[str, ...]]]:
    reasons: dict[str, list[str]] = {}
    for test, reason in run.skipped.items():
        reasons.setdefault(reason, []).append(test)
    for reason, tests in sorted(reasons.items(), key=lambda item: -len(item[1])):
        yield reason, tuple(tests)
