"""What a run says in a few lines: what got worse, what is fastest and leanest of each model, and what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from harness.anatomy.advice import Advice, Candidate, advise
from harness.anatomy.telemetry import disturbance
from harness.case import Case
from harness.certificate import Certificate
from harness.gate import ranking
from harness.gate.noise import group_of
from harness.gate.observations import observe
from harness.plugins import Metric
from harness.report import verdicts
from harness.report.lines import wrapped
from harness.report.reported import Run
from harness.results import Result
from harness.running.pipeline import Outcome
from harness.stored.baselines import ACCEPT

INTERRUPTED = 2
"""pytest's exit status."""
_NAMED = 5
"""Of cases that got worse or did not run; the others are counted."""


def render(run: Run) -> Iterator[str]:
    """Yield the lines of the answer: the verdicts counted, what got worse and why, and what to take of each model."""
    yield from wrapped(counted(run))
    for name, why in worse(run)[:_NAMED]:
        yield from wrapped(f"  {name}: {why}")
    if (more := len(worse(run)) - _NAMED) > 0:
        yield f"  and {more} more, each told above with its cause"
    for advice in advices(run):
        yield ""
        yield from wrapped(heading(advice))
        for sentence in advice.sentences:
            yield from wrapped(f"  {sentence}")


def counted(run: Run) -> str:
    """Return how many cases came to what, in a sentence."""
    words = became(run)
    parts = [f"{count} {word}" for word, count in words.items()]
    cases = sum(words.values())
    bad = len(worse(run))
    head = f"{bad} of {cases} cases got worse or failed" if bad else "nothing got worse"
    head = f"interrupted: {head} so far" if run.exit_code == INTERRUPTED else head
    return f"{head}: {', '.join(parts)}" if parts else head


def became(run: Run) -> dict[str, int]:
    """Return how many cases came to what: verdicts, the most common first, then those without one."""
    words = dict(Counter[str](outcome.verdict.word for outcome in run.outcomes).most_common())
    others = {"out of memory": len(run.out_of_memory), "failed to run": len(run.broken)}
    return words | {word: count for word, count in others.items() if count}


def worse(run: Run) -> list[tuple[str, str]]:
    """Return each case that got worse or did not run, with the first reason in words."""
    return [
        *((outcome.case.id, reason(outcome)) for outcome in run.worse),
        *((name, _first(said, name)) for test, said in run.broken.items() for name in [_named(test)]),
    ]


def reason(outcome: Outcome) -> str:
    """Return the verdict on a case and the first reason for it."""
    if not outcome.certificate.granted:
        return f"uncertified: {outcome.certificate.causes[0]}"
    if outcome.memory is not None and outcome.memory.causes:
        return f"{outcome.verdict.word}: {outcome.memory.causes[0]}"
    why = verdicts.why(outcome)
    return f"{outcome.verdict.word}: {why[0]}" if why else outcome.verdict.word


def advices(run: Run) -> list[Advice]:
    """Return what to take of each model: of its cases with a core or GPU for each rank, those on the most of them."""
    found: dict[str, Advice] = {}
    for advice in advised(run, [one for one in run.outcomes if not one.result.oversubscribed]):
        # One alone is no choice.
        if len(advice.counted) > 1:
            known = found.setdefault(advice.model, advice)
            if (advice.gpu_count, len(advice.counted)) > (known.gpu_count, len(known.counted)):
                found[advice.model] = advice
    return list(found.values())


def advised(run: Run, outcomes: Iterable[Outcome]) -> list[Advice]:
    """Return what to take of each model on each number of GPUs, of some cases of a run."""
    cases = [(one.result, one.reference, one.certificate) for one in outcomes]
    return advise(candidates(cases, run.registry.metrics))


def heading(advice: Advice) -> str:
    """Return what an advice is on, in words."""
    gpus = f"{advice.gpu_count} GPU{'s' if advice.gpu_count > 1 else ''}"
    return f"{advice.model} on {advice.dataset}, {gpus}, global batch {advice.global_batch_size}"


def candidates(
    cases: Sequence[tuple[Result, Result | None, Certificate | None]], metrics: Mapping[str, Metric]
) -> list[Candidate]:
    """Return measured cases of one run, each with reference and certificate, as such that may be recommended."""
    parsed = {result.case_id: Case.parse(result.case_id) for result, _, _ in cases}
    timed = ranking.timings(
        {result.case_id: [observe(one) for one in result.samples] for result, _, _ in cases},
        groups={name: group_of(case) for name, case in parsed.items()},
        # A process that drives all devices has the whole batch in its plain loop.
        loops={
            result.case_id: f"{case.model} {case.batch_size} {case.precision} {case.channels_last} {len(result.ranks)}"
            for result, _, _ in cases
            for case in [parsed[result.case_id]]
        },
    )
    return [
        replace(_candidate(result, reference, certificate, metrics), timing=timed[result.case_id])
        for result, reference, certificate in cases
    ]


def _candidate(
    result: Result, reference: Result | None, certificate: Certificate | None, metrics: Mapping[str, Metric]
) -> Candidate:
    scores = (metric.value(result, reference) for metric in metrics.values() if metric.scores is not None)
    memory = metrics["peak_memory"].value(result, None)
    if certificate is None:
        why_not = "it has no certificate"
    else:
        why_not = "" if certificate.granted else f"not certified: {certificate.causes[0]}"
    return Candidate(
        case=Case.parse(result.case_id),
        dataset=result.dataset,
        steps_s=result.step_s,
        memory_bytes=None if memory is None else int(memory),
        accuracy=next((score for score in scores if score is not None), None),
        oversubscribed=result.oversubscribed,
        disturbed=bool(disturbance(result.watched)) if result.watched else False,
        why_not=why_not,
    )


def next_steps(run: Run, *, reported: bool) -> list[tuple[str, str]]:
    """Return what to do next: the purpose of each command, and the command.

    Args:
        run: that was made.
        reported: whether it is written as a report anyway.
    """
    steps = []
    tests = [run.tests[one.case] for one in run.worse if one.case in run.tests] + [*run.broken]
    if tests:
        again = run.rerun(tests[0]) if len(tests) == 1 else f"{run.command} --lf"
        many = f"the {len(tests)} that failed" if len(tests) > 1 else "what failed"
        steps.append((f"look again at {many}", f"{again} --benchmark-compare"))
        if run.worse:
            steps.append(("if what got worse is meant, accept it", f"{again} {ACCEPT}"))
    if run.exit_code == INTERRUPTED and run.tests:
        return [*steps, ("run it whole", run.command)]
    words = {outcome.verdict.word for outcome in run.outcomes}
    if not run.worse and words & {"new", "incomparable", "improved"}:
        steps.append(("hold later runs to this one", f"{run.command} {ACCEPT}"))
    if "unresolved" in words and run.policy == "pr":
        steps.append(("measure longer, to judge the rest", f"{run.command} --gate-policy nightly"))
    if run.outcomes and not reported:
        steps.append(("charts and every figure, as a page", f"{run.command} --report report.html"))
    return steps


def commands(steps: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield commands with their purposes above them; a command is one line, however long, so that it can be copied."""
    for purpose, command in steps:
        yield f"{purpose}:"
        yield f"    {command}"


def _first(said: str, name: str) -> str:
    """Return the first line of what a test said, without the name that stands before it anyway."""
    return said.partition("\n")[0].removeprefix(f"{name}: ")


def _named(test: str) -> str:
    """Return the case in a node id, or else the node id."""
    return test.partition("[")[2].removesuffix("]") or test
