"""What pytest sees of the harness: options, cases from grids, skips with reasons, the fixture `bench`, the summary."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness import host as hosts
from harness import profiles, store
from harness.case import Case, grid
from harness.errors import CannotRun, HarnessError
from harness.feasible import why_not
from harness.host import Host
from harness.pipeline import Outcome, Pipeline, RunOptions
from harness.plugins import InputKind, Registry, discover
from harness.profiles import Profile
from harness.report import terminal
from harness.report.progress import ProgressLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The cases of one bench file: every model of an input kind, by every strategy, on each number of GPUs."""

    input: InputKind
    gpu_counts: tuple[int, ...] = (1, 2, 4)


class ReplayClock:
    """A timer for pytest-benchmark that tells times measured elsewhere.

    pytest-benchmark reads a timer before and after each round; the reading before is 0 and the one after is the
    recorded time, so that nothing is lost to rounding.
    """

    def __init__(self) -> None:
        self._times: Iterator[float] = iter(())
        self._now = 0.0

    def __call__(self) -> float:
        """Tell the time, and be at 0 for the next reading."""
        now, self._now = self._now, 0.0
        return now

    def load(self, seconds: Sequence[float]) -> None:
        """Take the times to tell, one a round."""
        self._times = iter(seconds)

    def next_step(self) -> None:
        """Be the function that is timed: go on by the next recorded time."""
        self._now = next(self._times)


@dataclass(slots=True)
class Suite:
    """What belongs to one pytest run."""

    host: Host
    registry: Registry
    profile: Profile
    pipeline: Pipeline
    options: RunOptions
    outcomes: list[Outcome]
    said: list[str] = field(default_factory=list)
    """What benchmarks of the harness itself found."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Tests that a plain run does not include, by the word that would."""


_SUITE = pytest.StashKey[Suite]()
_COMPARE = pytest.StashKey[Any]()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the suite's options."""
    pluginmanager.register(_AfterBenchmark(), "shardbench-after-benchmark")
    group = parser.getgroup("shardbench", "distributed training benchmarks")
    group.addoption(
        "--profile",
        metavar="NAME",
        help="set-up from benches/profiles.toml: smoke (default without CUDA), standard (default with CUDA), paper",
    )
    group.addoption(
        "--matrix",
        choices=("default", "full"),
        default="default",
        help="full: also the heavy models that a plain run leaves out unless -k, -m or a test id names them",
    )
    group.addoption(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder with CIFAR-10, CIFAR-100 or COCO 2017 in their official formats; without it: the embedded data",
    )
    group.addoption("--download", action="store_true", help="fetch what is missing under --data-root")
    group.addoption("--launcher", default="warm", metavar="NAME", help="how ranks start: warm (default), torchrun")
    group.addoption(
        "--plugins",
        dest="bench_plugins",
        action="append",
        default=[],
        metavar="MODULE",
        help="module with further strategies, models, datasets or metrics; may be given several times",
    )
    group.addoption(
        "--case-timeout", type=float, metavar="SECONDS", help="end a case that takes longer (default: the profile's)"
    )
    group.addoption(
        "--reference",
        choices=("run", "baseline"),
        default="run",
        help="where a speedup's one-GPU reference comes from when this run does not hold it: run it (default), "
        "or take the newest stored run",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Set pytest-benchmark up for this suite before it looks at its options."""
    config.addinivalue_line(
        "markers",
        "bench(model, strategy, gpu_count, batch_size, precision, offload, checkpointing, accumulation): "
        "the axes of a case, for exact selection with -m",
    )
    config.addinivalue_line("markers", "when_named(word): left out unless -k, -m or a test id contains the word")
    # Loaded again below, once its storage is this suite's.
    config.stash[_COMPARE] = config.getoption("benchmark_compare", None)
    config.option.benchmark_compare = None


class _AfterBenchmark:
    """Hooks that must come after pytest-benchmark's own."""

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Give pytest-benchmark this suite's folder of stored runs, and let it load what is to be compared."""
        session = getattr(config, "_benchmarksession", None)
        if session is None:
            raise pytest.UsageError("this suite needs the plugin pytest-benchmark: leave out -p no:benchmark")
        try:
            suite = _suite(config)
            if config.getoption("benchmark_storage") == "file://./.benchmarks":
                folder = config.rootpath / "baselines"
                session.storage = store.BaselineStorage(str(folder), session.logger, suite.host.name)
            session.machine_id = suite.host.name
            session.compare = config.stash[_COMPARE]
            config.option.benchmark_compare = session.compare
            # Its wide table says less than this suite's; -v or its own flags bring it back.
            session.quiet = session.quiet or not (session.verbose or session.compare or session.histogram)
            session.handle_loading()
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    """Describe the machine by what decides whether figures can be compared; pytest-benchmark's own takes a second."""
    host = _suite(config).host
    return {
        "node": host.name,
        "cpu": {"brand_raw": host.cpu, "count": len(host.cores)},
        "memory_bytes": host.memory_bytes,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in host.gpus],
        "driver": host.driver,
        "versions": host.versions,
    }


def _suite(config: pytest.Config) -> Suite:
    """Return this run's suite, made on first asking."""
    if _SUITE not in config.stash:
        host = hosts.probe()
        plugins = tuple(config.getoption("bench_plugins"))
        registry = discover(plugins)
        registry.find("launchers", config.getoption("launcher"))
        known = profiles.load(config.rootpath / "benches" / "profiles.toml")
        profile = profiles.choose(known, config.getoption("profile"), device_kind=host.device_kind)
        options = RunOptions(
            data_root=_data_root(config.getoption("data_root"), download=config.getoption("download")),
            download=config.getoption("download"),
            plugins=plugins,
            launcher=config.getoption("launcher"),
            case_timeout_s=config.getoption("case_timeout"),
            reference=config.getoption("reference"),
            baselines=config.rootpath / "baselines" / host.name,
        )
        watch = _progress(config) or (lambda title, folder: nullcontext())
        pipeline = Pipeline(host=host, registry=registry, profile=profile, options=options, watch=watch)
        config.stash[_SUITE] = Suite(host, registry, profile, pipeline, options, [])
    return config.stash[_SUITE]


def _data_root(root: Path | None, *, download: bool) -> Path | None:
    if root is None:
        if download:
            raise HarnessError("--download has nowhere to put the data: give a folder with --data-root")
        return None
    if not root.is_dir():
        raise HarnessError(f"--data-root {root} is no folder; make it, or leave the option out for the embedded data")
    return root.resolve()


def _progress(config: pytest.Config) -> ProgressLine | None:
    writer = config.get_terminal_writer()
    stream = getattr(writer, "_file", sys.stdout)
    if os.environ.get("CI") or not stream.isatty() or config.getoption("verbose") < 0:
        return None
    return ProgressLine(stream, column=writer)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each case of the module's GRID."""
    wanted = getattr(metafunc.module, "GRID", None)
    if "case" not in metafunc.fixturenames or not isinstance(wanted, Grid):
        return
    try:
        metafunc.parametrize("case", list(_params(wanted, _suite(metafunc.config))))
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error


def _params(wanted: Grid, suite: Suite) -> Iterator[Any]:
    models = {name: model for name, model in suite.registry.models.items() if model.input is wanted.input}
    settings = {name: suite.profile.settings(model) for name, model in models.items()}
    cases = grid(
        models=models,
        strategies=suite.registry.strategies,
        gpu_counts=wanted.gpu_counts,
        batch_sizes={name: of_model.batch_sizes for name, of_model in settings.items()},
    )
    for case in cases:
        reason = why_not(
            case,
            host=suite.host,
            registry=suite.registry,
            settings=settings[case.model],
            data_root=suite.options.data_root,
            download=suite.options.download,
        )
        marks = [
            pytest.mark.bench(**case.axes),
            pytest.mark.benchmark(timer=ReplayClock(), group=f"{case.model} bs{case.batch_size}"),
        ]
        if reason:
            marks.append(pytest.mark.skip(reason=reason))
        if not settings[case.model].in_default_matrix:
            marks.append(pytest.mark.when_named(case.model))
        yield pytest.param(case, id=case.id, marks=marks)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a run must name to include: the heavy models, the cost of the harness itself."""
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
        _suite(config).left_out.update(item.get_closest_marker("when_named").args[0] for item in left_out)  # type: ignore[union-attr]
        items[:] = kept


def _case_of(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("case") if callspec else None
    return case if isinstance(case, Case) else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Open the launcher as soon as a case is sure to run, so that its libraries load meanwhile."""
    if session.config.getoption("collectonly"):
        return
    if any(_case_of(item) and not item.get_closest_marker("skip") for item in session.items):
        _suite(session.config).pipeline.start()


@pytest.fixture
def bench(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Case], Outcome]:
    """Return the function that runs a case, records it through pytest-benchmark, and fails the test if it must."""

    def run(case: Case) -> Outcome:
        suite = _suite(request.config)
        compared = request.config._benchmarksession.compared_mapping  # type: ignore[attr-defined]
        try:
            outcome = suite.pipeline.run(case, baseline=store.recall(compared, request.node.nodeid))
        except CannotRun as reason:
            pytest.skip(str(reason))
        except HarnessError as error:
            pytest.fail(_failure(error, request.node.nodeid), pytrace=False)
        _record(benchmark, outcome, request.node)
        suite.outcomes.append(outcome)
        request.node.user_properties.append(("verdict", outcome.verdict.word))
        if outcome.verdict.word == "regressed":
            pytest.fail(_regression(outcome, request.node.nodeid), pytrace=False)
        return outcome

    return run


class Cost:
    """What a benchmark of the harness itself works with."""

    def __init__(self, suite: Suite, benchmark: Any, node: pytest.Item) -> None:
        self.pipeline = suite.pipeline
        self._suite = suite
        self._benchmark = benchmark
        self._node = node
        self._others: dict[str, Pipeline] = {}

    def other(self, launcher: str) -> Pipeline:
        """Return a pipeline like this run's, with another launcher."""
        if launcher not in self._others:
            suite = self._suite
            self._others[launcher] = Pipeline(
                host=suite.host,
                registry=suite.registry,
                profile=suite.profile,
                options=replace(suite.options, launcher=launcher),
                watch=lambda title, folder: nullcontext(),
            )
        return self._others[launcher]

    def record(self, sentence: str, seconds: Sequence[float]) -> None:
        """Record measured seconds through pytest-benchmark, and say what they mean in the summary."""
        _replay(self._benchmark, self._node, seconds)
        self._benchmark.extra_info["says"] = sentence
        self._suite.said.append(sentence)

    def close(self) -> None:
        """End what was started beside the run's own pipeline."""
        for pipeline in self._others.values():
            pipeline.close()


@pytest.fixture
def cost(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[Cost]:
    """Give a benchmark of the harness itself the run's pipeline, and a place for what it finds."""
    given = Cost(_suite(request.config), benchmark, request.node)
    yield given
    given.close()


def _record(benchmark: Any, outcome: Outcome, node: pytest.Item) -> None:
    # The case itself is no JSON; its axes are.
    benchmark.params = outcome.case.axes
    benchmark.extra_info.update(store.pack(outcome.result, outcome.reference))
    _replay(benchmark, node, outcome.result.step_s)


def _replay(benchmark: Any, node: pytest.Item, seconds: Sequence[float]) -> None:
    mark = node.get_closest_marker("benchmark")
    assert mark is not None, "a test that replays times needs @pytest.mark.benchmark(timer=ReplayClock())"
    clock: ReplayClock = mark.kwargs["timer"]
    clock.load(seconds)
    if benchmark.enabled and seconds:
        benchmark.pedantic(clock.next_step, rounds=len(seconds), iterations=1)


def _failure(error: HarnessError, nodeid: str) -> str:
    return f'{error}\n  rerun  pytest "{nodeid}"'


def _regression(outcome: Outcome, nodeid: str) -> str:
    lines = [f"{outcome.case}: regressed against the stored run"]
    lines += [f"  {finding.sentence()}" for finding in outcome.verdict.findings if finding.word != "passed"]
    if outcome.verdict.note:
        lines.append(f"  {outcome.verdict.note}")
    lines.append(f'  rerun   pytest "{nodeid}" --benchmark-compare')
    lines.append("  accept  the same with --benchmark-save=accepted, without --benchmark-compare")
    return "\n".join(lines)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the result table, what was skipped and why, and what was left out."""
    if _SUITE not in config.stash:
        return
    suite = config.stash[_SUITE]
    skips = [_skip_reason(report) for report in terminalreporter.stats.get("skipped", []) if "benches" in report.nodeid]
    if not (suite.outcomes or skips or suite.said):
        return
    write = terminalreporter.write_line
    terminalreporter.section("results")
    compared = bool(config._benchmarksession.compared_mapping)  # type: ignore[attr-defined]
    if suite.outcomes:
        lines = terminal.render(
            suite.outcomes,
            extra=suite.pipeline.extra,
            metrics=suite.registry.metrics.values(),
            profile=suite.profile,
            host=suite.host,
            compared=compared,
        )
        for line in lines:
            write(line)
    for sentence in suite.said:
        write(sentence)
    if skips:
        write("")
        write("skipped")
        for line in terminal.skipped(skips):
            write(line)
    if suite.left_out:
        write("")
        words = ", ".join(f"{word} ({count})" for word, count in sorted(suite.left_out.items()))
        write(f"left out: {words}; name one to run it (-k {min(suite.left_out)}), or give --matrix full")


def _skip_reason(report: Any) -> str:
    place = report.longrepr
    text = place[2] if isinstance(place, tuple) else str(place)
    return str(text).removeprefix("Skipped: ")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End everything the run started."""
    if _SUITE in config.stash:
        config.stash[_SUITE].pipeline.close()
