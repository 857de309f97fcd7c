"""What is printed at the end of a run, section by section."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from harness.anatomy import outlook
from harness.anatomy.ceilings import best_busbw_bytes_per_s
from harness.anatomy.links import fabric
from harness.anatomy.roofline import roof
from harness.baselines import ACCEPT
from harness.case import Case
from harness.errors import StoreError
from harness.report import (
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
from harness.results import Result
from harness.studying import StudyRun
from harness.suite import Suite

Section = tuple[str, Iterable[str]]


def sections(suite: Suite, *, strike: Callable[[str], str], full: bool = False) -> Iterator[Section]:
    """Yield title and lines of each section that has something to say.

    Args:
        suite: the run.
        strike: strikes a figure through.
        full: whether cases without anything to say are told one by one too.
    """
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
        yield "forecast", _forecast(suite, suite.options.forecast)
    if explainer.found:
        limit = suite.options.device_memory_bytes
        yield "the largest batch", fitting.render(explainer.found, device_memory_bytes=limit)
    if suite.study is not None and suite.study.chosen:
        yield f"the study {suite.study.study.name}", _study(suite, suite.study)
    if suite.options.seeds > 1 and suite.outcomes:
        yield f"accuracy over {suite.options.seeds} seeds", _over_seeds(suite)


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


def _forecast(suite: Suite, links: str) -> Iterator[str]:
    results, strategies = [outcome.result for outcome in suite.outcomes], suite.registry.strategies
    own = next((one.ceilings for one in sorted(results, key=_gpus, reverse=True) if _has_links(one)), None)
    backend = "gloo" if suite.host.device_kind == "cpu" else "nccl"
    if links == "measured":
        if own is None:
            yield "no links were measured: run a case with 2 GPUs too, or name links: --forecast nvlink4"
            return
        made, reasons = outlook.forecasts(results, strategies, outlook.measured_fabric(own), backend=backend)
    else:
        made, reasons = outlook.forecasts(results, strategies, fabric(links), backend="nccl")
    yield from forecast.render(made)
    yield from (f"no forecast: {reason}" for reason in reasons)
    if own is not None:
        yield ""
        found = outlook.check(results, strategies, outlook.measured_fabric(own), backend=backend)
        yield from forecast.validation(
            "checked: predicted from fewer ranks, and measured in this run", found, unit="ms"
        )


def _gpus(result: Result) -> int:
    return Case.parse(result.case_id).gpu_count


def _has_links(result: Result) -> bool:
    return result.ceilings is not None and bool(result.ceilings.sweeps) and not result.oversubscribed


def _over_seeds(suite: Suite) -> Iterator[str]:
    for metric in suite.registry.metrics.values():
        scores = {o.case: o.result.last_scores(metric.name) for o in suite.outcomes if metric.value(o.result, None)}
        yield from equivalence.render(scores if metric.scores else {}, metric=metric)


def rest(suite: Suite, skips: Sequence[str]) -> Iterator[str]:
    """Yield what benchmarks of the harness found, what was skipped and why, and what was left out."""
    yield from suite.said
    if skips:
        yield ""
        yield "skipped"
        yield from terminal.skipped(skips)
    if suite.left_out:
        yield ""
        words = ", ".join(f"{word} ({count})" for word, count in sorted(suite.left_out.items()))
        yield from terminal.wrapped(
            f"left out: {words}; name one to run it (-k {min(suite.left_out)}), or give --matrix full"
        )
