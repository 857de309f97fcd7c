"""One pytest run as its reports tell it, and the files that they are written to."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from harness.anatomy import outlook
from harness.anatomy.forecast import Forecast
from harness.anatomy.links import fabric
from harness.case import Case
from harness.errors import CaseError, StoreError
from harness.records.ceilings import Ceilings
from harness.report import files
from harness.report.reported import Run
from harness.running.pipeline import Outcome
from harness.running.ranks import RunOptions
from harness.session import rerun
from harness.session.suite import Suite
from harness.stored import history, store

_TOLD_ELSEWHERE = ("policy", "baselines", "references", "stored")
"""Options that a run tells in fields of their own, or that follow from others."""


def run_of(suite: Suite, *, config: pytest.Config, told: Mapping[str, Sequence[Any]], exit_code: int) -> Run:
    """Return a pytest run as reports tell it, without its sections and what is stored beside it.

    Args:
        suite: of the run.
        config: of the run.
        told: pytest's own reports of its tests, by what became of them, as the terminal reporter has them.
        exit_code: of the run.
    """
    reports = [report for word in ("passed", "failed", "error", "skipped") for report in told.get(word, ())]
    benches = [report for report in reports if "benches" in report.nodeid.partition("::")[0]]
    forecasts, not_forecast = _forecasts(suite)
    return Run(
        command=" ".join(["pytest", *(shlex.quote(str(one)) for one in config.invocation_params.args)]),
        exit_code=exit_code,
        started_unix_s=min((report.start for report in benches if hasattr(report, "start")), default=None),
        host=suite.host.name,
        machine=suite.host.describe(),
        software=suite.host.software,
        profile=suite.profile.name,
        about=suite.profile.about,
        commit="",
        policy=suite.options.policy.name,
        options=dict(_given(suite.options)),
        registry=suite.registry,
        outcomes=tuple(suite.outcomes),
        extra=suite.pipeline.extra,
        tests=dict(_tests(benches)),
        again={report.nodeid: rerun.command(config, report.nodeid) for report in benches},
        failed={report.nodeid: report.longreprtext for report in benches if report.failed},
        skipped={report.nodeid: _reason(report) for report in benches if report.skipped},
        out_of_memory=suite.out_of_memory,
        left_out=suite.left_out,
        forecasts=forecasts,
        not_forecast=not_forecast,
    )


def write(run: Run, wanted: Iterable[Path], suite: Suite) -> Iterator[str]:
    """Write the reports that were asked for and yield where they are; what cannot be written is noted in the suite.

    Args:
        run: that is told; what is stored beside it is added.
        wanted: files, absolute.
        suite: of the run.
    """
    from pytest_benchmark.utils import get_commit_info

    try:
        folder = suite.options.baselines
        stored = [] if folder is None else history.of_host(folder, run.host)
        past = history.of_cases((one.case for one in run.outcomes), stored)
        run = replace(run, history=past, commit=store.commit_of({"commit_info": get_commit_info()}))
    except StoreError as error:
        suite.not_stored.append(f"no report has the history of its cases: {error}")
    for file in wanted:
        try:
            files.write(run, file)
        except StoreError as error:
            suite.not_stored.append(str(error))
        else:
            yield f"report: {file}"


def _forecasts(suite: Suite) -> tuple[tuple[Forecast, ...], tuple[str, ...]]:
    """Return the forecasts that were asked for, and why there is none of some case."""
    asked, results = suite.options.forecast, [outcome.result for outcome in suite.outcomes]
    if not asked or not results:
        return (), ()
    if asked != "measured":
        made, reasons = outlook.forecasts(results, suite.registry.strategies, fabric(asked), backend="nccl")
    elif (own := links_of(suite.outcomes)) is None:
        return (), ("no links were measured: run a case with 2 GPUs too, or name links: --forecast nvlink4",)
    else:
        backend = "gloo" if suite.host.device_kind == "cpu" else "nccl"
        made, reasons = outlook.forecasts(
            results, suite.registry.strategies, outlook.measured_fabric(own), backend=backend
        )
    return tuple(made), tuple(reasons)


def links_of(outcomes: Iterable[Outcome]) -> Ceilings | None:
    """Return what was measured of this machine's links by the most ranks that shared no cores; None where nothing."""
    swept = [
        one.result
        for one in outcomes
        if one.result.ceilings is not None and one.result.ceilings.sweeps and not one.result.oversubscribed
    ]
    return max(swept, key=lambda result: len(result.ranks)).ceilings if swept else None


def _given(options: RunOptions) -> Iterator[tuple[str, str]]:
    usual = RunOptions()
    for one in fields(RunOptions):
        value = getattr(options, one.name)
        if one.name not in _TOLD_ELSEWHERE and value != getattr(usual, one.name):
            yield one.name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _tests(reports: Iterable[Any]) -> Iterator[tuple[Case, str]]:
    for report in reports:
        try:
            yield Case.parse(report.nodeid.partition("[")[2].removesuffix("]")), report.nodeid
        except CaseError:
            continue  # a benchmark of the harness itself, or a case that there is not any more


def _reason(report: Any) -> str:
    place = report.longrepr
    text = place[2] if isinstance(place, tuple) else str(place)
    return str(text).removeprefix("Skipped: ")
