"""What is printed at the end of a run, section by section."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from harness.anatomy import outlook
from harness.anatomy.ceilings import best_busbw_bytes_per_s
from harness.anatomy.roofline import roof
from harness.errors import StoreError
from harness.report import (
    answer,
    budget,
    certificates,
    equivalence,
    fitting,
    forecast,
    memory,
    roofline,
    selftest,
    studies,
    telemetry,
    terminal,
    trained,
    verdicts,
)
from harness.report.lines import wrapped
from harness.report.reported import Run
from harness.session.reporting import links_of
from harness.session.suite import Suite
from harness.stored.baselines import ACCEPT
from harness.studying import StudyRun

Section = tuple[str, Iterable[str]]


def sections(suite: Suite, run: Run, *, strike: Callable[[str], str], full: bool, reported: bool) -> Iterator[Section]:
    """Yield title and lines of each section that has something to say: the answer first, what to do next last.

    Args:
        suite: the run.
        run: the same as reports tell it.
        strike: strikes a figure through.
        full: whether cases without anything to say are told one by one too.
        reported: whether the run is written as a report besides.
    """
    if suite.outcomes or run.broken:
        yield "the answer", answer.render(run)
    if suite.outcomes or suite.out_of_memory:
        yield (
            "results",
            terminal.render(
                suite.outcomes,
                extra=suite.pipeline.extra,
                metrics=suite.registry.metrics.values(),
                profile=suite.profile,
                host=suite.host,
                out_of_memory=suite.out_of_memory,
                strike=strike,
            ),
        )
    if suite.outcomes:
        keeper = suite.pipeline.timekeeper
        yield (
            "the gate",
            verdicts.render(
                suite.outcomes,
                policy=keeper.policy,
                cost_s=keeper.sampler.cost_s,
                said=keeper.said,
                accept=ACCEPT,
                full=full,
            ),
        )
    results, saved_to = [outcome.result for outcome in suite.outcomes], suite.options.save_model
    if trainings := list(trained.render(results, metrics=suite.registry.metrics, saved_to=saved_to)):
        yield "the trainings", trainings
    if suite.selftest is not None:
        yield "this machine's noise", selftest.render(suite.selftest, policy=suite.options.policy)
    certifier, explainer = suite.pipeline.certifier, suite.pipeline.explainer
    if certifier.known:
        known = certifier.known.values()
        yield (
            "the same training",
            certificates.render(known, made=certifier.made, reference_s=certifier.reference_s),
        )
    if held := [outcome.memory for outcome in suite.outcomes if outcome.memory is not None]:
        yield "where the memory goes", memory.render(held)
    if read := {outcome.case: outcome.result.telemetry for outcome in suite.outcomes if outcome.result.telemetry}:
        yield "what the machine told", telemetry.render(read)
    if traces := {outcome.case: outcome.result.traces for outcome in suite.outcomes if outcome.result.traces}:
        yield "where the time goes", budget.render(traces, **_beside(suite))
        yield "against the machine", roofline.render([outcome.result for outcome in suite.outcomes])
    if suite.options.forecast and suite.outcomes:
        yield "forecast", _forecast(suite, run)
    if explainer.found:
        limit = suite.options.device_memory_bytes
        yield "the largest batch", fitting.render(explainer.found, device_memory_bytes=limit)
    if suite.study is not None and suite.study.chosen:
        yield f"the study {suite.study.study.name}", _study(suite, suite.study)
    if suite.options.seeds > 1 and suite.outcomes:
        yield f"accuracy over {suite.options.seeds} seeds", _over_seeds(suite)
    if suite.said:
        yield "the harness itself", [line for sentence in suite.said for line in wrapped(sentence)]
    ran = suite.outcomes or suite.said or run.broken or run.out_of_memory
    if run.skipped or (suite.left_out and ran):
        yield "not run", _not_run(suite, run)
    if steps := answer.next_steps(run, reported=reported):
        yield "what to do next", answer.commands(steps)


def _study(suite: Suite, run: StudyRun) -> Iterator[str]:
    untimed = suite.pipeline.timekeeper.sampler.failed
    evidence = run.evidence(suite.outcomes, out_of_memory=suite.out_of_memory, untimed=untimed)
    tables, claims = list(run.study.tables(evidence)), list(run.study.claims(evidence))
    yield from studies.heading(run.study, evidence)
    yield from studies.mistakes(run.published)
    yield from studies.tables(tables)
    yield from studies.claims(claims)
    yield ""
    if run.report is None:
        yield "figures and tables as files: --study-report DIR"
        return
    try:
        files = studies.write(run.report, run.study, evidence, suite.host, tables, claims)
    except StoreError as error:
        suite.not_stored.append(str(error))
    else:
        yield f"written to {run.report}: {len(files)} files, with every figure's numbers and the raw results"


def _beside(suite: Suite) -> dict[str, Any]:
    """Return what is known of traced cases beside their traces."""
    roofs = {outcome.case: roof(outcome.result) for outcome in suite.outcomes}
    known = [outcome.result.ceilings for outcome in suite.outcomes if outcome.result.ceilings]
    return {
        "bound": {case: one.bound for case, one in roofs.items() if one and one.bound},
        "ceiling": {one.ranks: best_busbw_bytes_per_s(one) for one in known},
    }


def _forecast(suite: Suite, run: Run) -> Iterator[str]:
    yield from forecast.render(run.forecasts)
    yield from (f"no forecast: {reason}" for reason in run.not_forecast)
    if (own := links_of(run.outcomes)) is not None:
        yield ""
        found = outlook.check(
            [outcome.result for outcome in run.outcomes],
            suite.registry.strategies,
            outlook.measured_fabric(own),
            backend="gloo" if suite.host.device_kind == "cpu" else "nccl",
        )
        yield from forecast.validation(
            "checked: predicted from fewer ranks, and measured in this run", found, unit="ms"
        )


def _over_seeds(suite: Suite) -> Iterator[str]:
    for metric in suite.registry.metrics.values():
        scores = {o.case: o.result.last_scores(metric.name) for o in suite.outcomes if metric.value(o.result, None)}
        yield from equivalence.render(scores if metric.scores else {}, metric=metric)


def _not_run(suite: Suite, run: Run) -> Iterator[str]:
    """Yield what was skipped and why, and what a plain run leaves out."""
    yield from terminal.skipped(run.skipped.values())
    if suite.left_out:
        words = ", ".join(f"{word} ({count})" for word, count in sorted(suite.left_out.items()))
        yield from wrapped(f"left out: {words}; name one to run it (-k {min(suite.left_out)}), or give --matrix full")
