"""What pytest sees of the harness: its options, the tests it makes of cases, and the summary at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest

from harness import command_line, store, summary, vanished
from harness.case import Case
from harness.errors import HarnessError
from harness.fixtures import bench, cost
from harness.gate.limits import OPEN
from harness.report import terminal
from harness.suite import SUITE, Grid, case_of, compares, params, refuse_unknown_names, stored_runs, suite_of

__all__ = ["bench", "cost"]
_COMPARE = pytest.StashKey[Any]()
UNDECIDED = 6
"""Exit status of a run in which no case got worse, and some could not be judged; 0 to 5 are pytest's own."""
_DONE = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the suite's options."""
    pluginmanager.register(_AfterBenchmark(), "shardbench-after-benchmark")
    command_line.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Set pytest-benchmark up for this suite before it looks at its options."""
    config.addinivalue_line(
        "markers",
        f"bench({', '.join(field.name for field in fields(Case))}): the axes of a case, for exact selection with -m",
    )
    config.addinivalue_line("markers", "when_named(word): left out unless -k, -m or a test id contains the word")
    if not config.pluginmanager.has_plugin("benchmark"):
        raise pytest.UsageError("this suite needs the plugin pytest-benchmark: leave out -p no:benchmark")
    # Loaded again below, once its storage is this suite's.
    config.stash[_COMPARE] = config.getoption("benchmark_compare")
    config.option.benchmark_compare = None
    if (folder := stored_runs(config)) is not None:
        config.option.benchmark_storage = f"file://{folder}"


class _AfterBenchmark:
    """Hooks that must come after pytest-benchmark's own, or that pytest does not tell the run of."""

    config: pytest.Config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what failed because it could not be judged."""
        if report.failed and dict(report.user_properties).get("verdict") in OPEN:
            suite = suite_of(self.config)
            suite.undecided.add(report.nodeid)
            suite.undecided_failed += 1

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Give pytest-benchmark this suite's folder of stored runs, and let it load what is to be compared."""
        self.config = config
        session = config._benchmarksession  # type: ignore[attr-defined]
        session.compare = config.option.benchmark_compare = config.stash[_COMPARE]
        try:
            suite = suite_of(config)
            if (folder := stored_runs(config)) is not None:
                session.storage = store.BaselineStorage(str(folder), session.logger, suite.host.name)
            # They are called while pytest finishes, where an exception would cost the summary.
            session.storage.save = _noting_failure(session.storage.save, suite.not_stored)
            write_json = session.save_json
            session.save_json = _noting_failure(lambda output: write_json(store.sealed(output)), suite.not_stored)
            session.machine_id = suite.host.name
            # Its wide table says less than this suite's; -v or its own flags bring it back.
            session.quiet = session.quiet or not (session.verbose or session.compare or session.histogram)
            session.handle_loading()
            if isinstance(session.compare, str):  # files of somebody's choice, not the newest
                suite.pipeline.baselines.restrict(session.compared_mapping)
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error


def _noting_failure(save: Callable[..., None], failures: list[str]) -> Callable[..., None]:
    """Return the function, with what keeps it from writing noted instead of raised."""

    def save_or_note(*arguments: Any) -> None:
        try:
            save(*arguments)
        except (HarnessError, OSError) as error:
            failures.append(str(error))

    return save_or_note


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Measure and judge the time of all cases before the first of them is told."""
    cases = [case for item in session.items if (case := case_of(item)) and not item.get_closest_marker("skip")]
    if cases and not session.config.getoption("collectonly"):
        try:
            _keep_time(session.config, cases)
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error
    return (yield)


def _keep_time(config: pytest.Config, cases: list[Case]) -> None:
    suite = suite_of(config)
    if config.getoption("gate_selftest"):
        suite.selftest = suite.pipeline.selftest(cases)
        return
    if suite.study is not None:
        settings, timed = suite.study.profile.study, {one.case for one in suite.study.planned if one.timed}
        chosen = [case for case in cases if case in timed]
        suite.pipeline.sample(chosen, processes=settings.processes, rounds_s=settings.process_s)
    if not suite.options.find_max_batch and (levels := suite.pipeline.levels(cases)):
        policy, reporter = suite.options.policy.name, config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"timing {len(levels)} cases before the first is told, by policy {policy}")
        suite.pipeline.timekeeper.run(levels)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run whose results could not be stored; tell a run that could not judge from one that found a fault."""
    if SUITE not in session.config.stash:
        return
    suite = session.config.stash[SUITE]
    if suite.not_stored:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif suite.undecided and session.exitstatus in _DONE and session.testsfailed == suite.undecided_failed:
        session.exitstatus = UNDECIDED


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    """Describe the machine by what decides whether figures can be compared; pytest-benchmark's own takes a second."""
    host = suite_of(config).host
    return {
        "node": host.name,
        "cpu": {"brand_raw": host.cpu, "count": len(host.cores)},
        "memory_bytes": host.memory_bytes,
        "hardware": host.hardware,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in host.gpus],
        "driver": host.driver,
        "versions": host.versions,
    }


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Note which stored cases this run saw vanish: saved by name, it accepts that they are gone."""
    if SUITE in config.stash and config.stash[SUITE].vanished:
        output_json["vanished"] = config.stash[SUITE].vanished


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each case of the module's GRID."""
    wanted = getattr(metafunc.module, "GRID", None)
    if "case" not in metafunc.fixturenames or not isinstance(wanted, Grid):
        return
    try:
        metafunc.parametrize("case", list(params(wanted, suite_of(metafunc.config), metafunc.definition.path)))
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error


def _add_vanished(config: pytest.Config, items: list[pytest.Item]) -> None:
    suite = suite_of(config)
    try:
        vanished.add(
            items,
            suite.pipeline.baselines,
            arguments=config.args,
            profile=suite.profile.name,
            root=config.rootpath,
            # A run that is saved by name accepts that they are gone.
            fails=compares(config) and not config.getoption("benchmark_save"),
        )
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Leave out of what is selected what a run must name to include: the heavy models, the harness's own cost."""
    if any(item.get_closest_marker("bench") for item in items):
        _add_vanished(config, items)
    refuse_unknown_names(config, items)
    if config.getoption("study"):
        # Where a bench file has none of its cases pytest makes a test without any; other tests are no part of it.
        config.hook.pytest_deselected(items=[item for item in items if not item.get_closest_marker("bench")])
        items[:] = [item for item in items if item.get_closest_marker("bench")]
    yield
    if config.getoption("matrix") == "full":
        return
    asked = " ".join([config.getoption("keyword"), config.getoption("markexpr"), *config.args])
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        mark = item.get_closest_marker("when_named")
        (left_out if mark and mark.args[0] not in asked else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        suite_of(config).left_out.update(item.get_closest_marker("when_named").args[0] for item in left_out)  # type: ignore[union-attr]
        items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """Open the launcher as soon as a case is sure to run, so that its libraries load meanwhile."""
    if session.config.getoption("collectonly"):
        return
    if SUITE in session.config.stash:
        session.config.stash[SUITE].vanished = vanished.names(session.items)
        if (study := session.config.stash[SUITE].study) is not None:
            study.chosen = {case for item in session.items if (case := case_of(item))}
    to_run = sum(1 for item in session.items if case_of(item) and not item.get_closest_marker("skip"))
    if to_run:
        suite = suite_of(session.config)
        suite.to_run = to_run
        try:
            suite.pipeline.ranks.start()
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the progress line say how far the run is, and when it will be done if it goes on like this."""
    if case_of(item) is not None:
        suite_of(item.config).next_case(time.monotonic())


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the result table, what was skipped and why, and what was left out."""
    if SUITE not in config.stash:
        return
    suite = config.stash[SUITE]
    skips = [_skip_reason(report) for report in terminalreporter.stats.get("skipped", []) if "benches" in report.nodeid]
    strike = terminal.terminal_strike if terminalreporter.hasmarkup else terminal.plain_strike
    for title, lines in summary.sections(suite, strike=strike, full=terminalreporter.verbosity > 0):
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
    for failure in suite.not_stored:
        terminalreporter.write_line(f"NOT STORED: {failure}", red=True)
    if suite.outcomes or suite.said or skips:
        for line in summary.rest(suite, skips):
            terminalreporter.write_line(line)


def _skip_reason(report: Any) -> str:
    place = report.longrepr
    text = place[2] if isinstance(place, tuple) else str(place)
    return str(text).removeprefix("Skipped: ")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End everything the run started."""
    if SUITE in config.stash:
        config.stash[SUITE].pipeline.close()
