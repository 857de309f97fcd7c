"""What pytest sees of the harness: its options, the tests it makes of cases, and the summary at the end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from harness.case import Case
from harness.errors import HarnessError
from harness.gate.limits import OPEN
from harness.machine import nodes
from harness.machine.exclusive import Exclusive
from harness.report import files, terminal
from harness.session import command_line, reporting, summary, vanished
from harness.session.fixtures import bench, cost
from harness.session.suite import SUITE, Grid, case_of, compares, params, refuse_unknown_names, stored_runs, suite_of
from harness.stored import store

__all__ = ["bench", "cost"]
_COMPARE = pytest.StashKey[Any]()
_REPORTS = pytest.StashKey[list[Path]]()
_EXIT = pytest.StashKey[int]()
UNDECIDED = 6
"""Exit status of a run in which no case got worse, and some could not be judged; 0 to 5 are pytest's own."""
_DONE = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the suite's options."""
    pluginmanager.register(_AfterBenchmark(), "shardbench-after-benchmark")
    pluginmanager.register(Exclusive(), "shardbench-exclusive")
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
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # As Ctrl-C does, so that what was measured is told and stored; a scheduler kills a little later.
        signal.signal(signal.SIGTERM, _interrupt)
    # Loaded again below, once its storage is this suite's.
    config.stash[_COMPARE] = config.getoption("benchmark_compare")
    config.option.benchmark_compare = None
    if (folder := stored_runs(config)) is not None:
        config.option.benchmark_storage = f"file://{folder}"


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


class _AfterBenchmark:
    """Hooks that must come after pytest-benchmark's own, or that pytest does not tell the run of."""

    config: pytest.Config

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note what a run was interrupted by and in."""
        if SUITE in self.config.stash and type(excinfo.value) is KeyboardInterrupt:  # others are pytest's own
            suite = self.config.stash[SUITE]
            by = str(excinfo.value) or signal.SIGINT.name
            suite.interrupted = f"interrupted by {by} while {suite.pipeline.ranks.running or 'nothing'} ran"

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
            config.stash[_REPORTS] = [files.refuse_unwritable(file) for file in config.getoption("bench_reports")]
            suite = suite_of(config)
            if (folder := stored_runs(config)) is not None:
                session.storage = store.BaselineStorage(str(folder), session.logger, suite.host.name)
                if session.save or session.autosave:
                    session.storage.refuse_unwritable()
            # They are called while pytest finishes, where an exception would cost the summary.
            session.storage.save = _noting_failure(session.storage.save, suite.not_stored)
            if session.json:  # a path, or in older versions of pytest-benchmark a file that is open
                file = Path(session.json if isinstance(session.json, str | Path) else session.json.name)
                session.save_json = _noting_failure(lambda output: store.write_run(file, output), suite.not_stored)
            session.machine_id = suite.host.name
            # Its wide table says less than this suite's; -v or its own flags bring it back.
            session.quiet = session.quiet or not (session.verbose or session.compare or session.histogram)
            session.handle_loading()
            if isinstance(session.compare, str):  # files of somebody's choice, not the newest
                suite.pipeline.baselines.restrict(session.compared_mapping)
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Fail a run of which something could not be written, the reports of the summary included."""
        yield
        if SUITE in self.config.stash and self.config.stash[SUITE].not_stored:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


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
    if suite.started == suite.to_run and not suite.interrupted:
        suite.pipeline.finished.forget()
    if suite.not_stored:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif suite.undecided and session.exitstatus in _DONE and session.testsfailed == suite.undecided_failed:
        session.exitstatus = UNDECIDED
    session.config.stash[_EXIT] = int(session.exitstatus)


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
        **({"nodes": [nodes.to_json(node) for node in host.nodes]} if host.nodes else {}),
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
def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print the answer, the result tables, what was skipped and why, and what to do next; write the reports."""
    if SUITE not in config.stash or config.getoption("collectonly"):
        return
    suite, wanted = config.stash[SUITE], config.stash[_REPORTS]
    run = reporting.run_of(
        suite, config=config, told=terminalreporter.stats, exit_code=config.stash.get(_EXIT, int(exitstatus))
    )
    strike = terminal.terminal_strike if terminalreporter.hasmarkup else terminal.plain_strike
    told = []
    full = terminalreporter.verbosity > 0
    for title, lines in summary.sections(suite, run, strike=strike, full=full, reported=bool(wanted)):
        terminalreporter.section(title)
        told.append((title, tuple(lines)))
        for line in told[-1][1]:
            terminalreporter.write_line(line)
    if wanted:
        for line in reporting.write(replace(run, sections=tuple(told)), wanted, suite):
            terminalreporter.write_line(line)
    finished = suite.pipeline.finished
    for sentence in (*filter(None, [finished.sentence()]), *finished.said):
        terminalreporter.write_line(sentence)
    for sentence in suite.pipeline.ranks.left:
        terminalreporter.write_line(f"LEFT BEHIND: {sentence}", red=True)
    for failure in suite.not_stored:
        terminalreporter.write_line(f"NOT STORED: {failure}", red=True)
    if suite.interrupted:
        terminalreporter.write_line(suite.interrupted, red=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End everything the run started."""
    if signal.getsignal(signal.SIGTERM) is _interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if SUITE in config.stash:
        config.stash[SUITE].pipeline.close()
