"""One pytest run of the suite: what it was asked for, and the tests it makes of a grid of cases."""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from harness import profiles
from harness.anatomy import links
from harness.case import Case, combine, grid, spell
from harness.errors import CaseError, HarnessError
from harness.gate import policy as policies
from harness.gate.limits import OPEN, WORSE, Word
from harness.gate.policy import Policy
from harness.gate.selftest import Selftest
from harness.machine import host as hosts
from harness.machine.host import Host
from harness.machine.nodes import Joining
from harness.plugins import InputKind, Launcher
from harness.profiles import ModelSettings, Profile
from harness.registry import Registry, discover
from harness.report.progress import ProgressLine
from harness.running import plant
from harness.running.feasible import why_not
from harness.running.pipeline import Outcome, Pipeline
from harness.running.ranks import RunOptions
from harness.running.trainings import refuse_unwritable
from harness.session.recording import ReplayClock
from harness.session.selection import Selection, named_cases, refuse_unknown, select
from harness.studying import StudyRun, study_run
from harness.units import bytes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The cases of one bench file: every model of an input kind, by every strategy, on each number of GPUs."""

    input: InputKind
    gpu_counts: tuple[int, ...] = (1, 2, 4)


@dataclass(slots=True)
class Suite:
    """What belongs to one pytest run."""

    host: Host
    registry: Registry
    profile: Profile
    pipeline: Pipeline
    options: RunOptions
    outcomes: list[Outcome]
    selection: Selection = field(default_factory=Selection)
    study: StudyRun | None = None
    """With --study: whose cases the run has in place of the matrix."""
    selftest: Selftest | None = None
    """With --gate-selftest: what unchanged code said of this machine."""
    vanished: list[str] = field(default_factory=list)
    """Tests of stored cases that are no more, of those that were chosen; a run that is saved by name accepts them."""
    said: list[str] = field(default_factory=list)
    """What benchmarks of the harness itself found."""
    compares: bool = False
    """Whether this is the nightly form, in which a case that could not be judged is not let pass unseen."""
    undecided: set[str] = field(default_factory=set)
    """Tests that could not be judged, where that matters."""
    undecided_failed: int = 0
    """So many of them failed for it."""
    out_of_memory: dict[Case, str] = field(default_factory=dict)
    """Cases that needed more memory than there was, and what they said."""
    not_stored: list[str] = field(default_factory=list)
    """Why results that were to be stored are not."""
    interrupted: str = ""
    """By which signal, and what ran then; nothing where the run came to its end."""
    progress: ProgressLine | None = None
    """None in a log file or in CI."""
    to_run: int = 0
    started: int = 0
    """Of the cases to run, this one included."""
    began_s: float = 0.0
    left_out: Counter[str] = field(default_factory=Counter)
    """Tests that a plain run does not include, by the word that would."""

    def what_of(self, word: Word) -> Literal["pass", "tell", "fail"]:
        """Return what becomes of a case with this verdict; `tell` is by the exit code alone."""
        if word == "unresolved":
            return self.options.policy.unresolved
        return "fail" if word in WORSE or (self.compares and word in OPEN) else "pass"

    def next_case(self, now_s: float) -> None:
        """Take note that another case starts; one that is skipped does not come this far."""
        self.began_s = self.began_s or now_s
        done, self.started = self.started, self.started + 1
        if self.progress is not None:
            left = ""
            if done:
                left_s = (now_s - self.began_s) / done * (self.to_run - done)
                left = f", {left_s / 60:.0f} min left" if left_s > 90 else f", {left_s:.0f} s left"
            self.progress.prefix = f"[{self.started}/{self.to_run}{left}]  "


SUITE = pytest.StashKey[Suite]()


def suite_of(config: pytest.Config) -> Suite:
    """Return this run's suite, made on first asking."""
    if SUITE not in config.stash:
        plugins = tuple(config.getoption("bench_plugins"))
        registry = discover(plugins, studies=True)
        host = _host(config, registry.find("launchers", config.getoption("launcher")))
        benches = config.rootpath / "benches"
        known = profiles.load(benches / "profiles.toml", *config.getoption("bench_profiles"))
        profile = profiles.choose(known, config.getoption("profile"), device_kind=host.device_kind)
        profiles.refuse_unknown(profile, models=registry.models, studies=registry.studies)
        study = _study(config, profile, registry)
        if study is not None:
            profile = study.profile
        stored = stored_runs(config)
        forecast = config.getoption("forecast")
        if forecast not in (None, "measured"):
            links.fabric(forecast)  # refused before anything runs
        options = RunOptions(
            data_root=_data_root(config.getoption("data_root"), download=config.getoption("download")),
            download=config.getoption("download"),
            plugins=plugins,
            launcher=config.getoption("launcher"),
            case_timeout_s=config.getoption("case_timeout"),
            hang_s=config.getoption("hang_timeout"),
            reference=config.getoption("reference"),
            recertify=config.getoption("recertify"),
            accounted=config.getoption("accounted") or forecast is not None,
            traced=config.getoption("traced") or forecast is not None,
            forecast=forecast,
            find_max_batch=config.getoption("find_max_batch"),
            device_memory_bytes=_device_memory(config, host),
            policy=_policy(config),
            gate_budget_s=config.getoption("gate_budget"),
            stored=_accepts(config),
            plant=_plant(config),
            seeds=config.getoption("seeds"),
            resume=config.getoption("resume"),
            tested=config.getoption("tested") or (study is not None and study.study.tested),
            save_model=_save_model(config.getoption("save_model")),
            references=None if study is None else frozenset(study.cases),
            baselines=stored,
        )
        progress = _progress(config)
        watch = progress or (lambda title, folder: nullcontext())
        pipeline = Pipeline(host=host, registry=registry, profile=profile, options=options, watch=watch)
        if study is not None:
            pipeline.explainer.accounted_too = {one.case for one in study.planned if one.accounted}
            pipeline.explainer.traced_too = {one.case for one in study.planned if one.traced}
        selection = Selection(
            variants=select(
                config.getoption("keyword"),
                config.getoption("markexpr"),
                config.getoption("bench_options"),
                names={*registry.models, *registry.strategies},
            ),
            cases=tuple(
                named_cases(config.args, start=config.invocation_params.dir, benches=benches, registry=registry)
            ),
            named=f"{config.getoption('keyword')} {config.getoption('markexpr')}",
        )
        config.stash[SUITE] = Suite(
            host=host,
            registry=registry,
            profile=profile,
            pipeline=pipeline,
            options=options,
            outcomes=[],
            selection=selection,
            study=study,
            compares=compares(config),
            progress=progress,
        )
    return config.stash[SUITE]


def _host(config: pytest.Config, launcher: Launcher) -> Host:
    joining = Joining(
        nodes=config.getoption("nnodes"),
        rdzv_endpoint=config.getoption("rdzv_endpoint"),
        srun=config.getoption("srun"),
    )
    for option, given, launchers in (
        ("--nnodes", joining.nodes, ("slurm", "torchrun")),
        ("--rdzv-endpoint", joining.rdzv_endpoint, ("torchrun",)),
        ("--srun", joining.srun, ("slurm",)),
    ):
        if given and launcher.name not in launchers:
            raise HarnessError(f"{option} says nothing to the launcher {launcher.name}: --launcher {launchers[0]}")
    return hosts.probe() if launcher.probe is None else launcher.probe(joining)


def _study(config: pytest.Config, profile: Profile, registry: Registry) -> StudyRun | None:
    name, report = config.getoption("study"), config.getoption("study_report")
    if name is None:
        if report is not None:
            raise HarnessError("--study-report has nothing to write: name a study with --study")
        return None
    for option, given in (("--options", "bench_options"), ("--find-max-batch", "find_max_batch")):
        if config.getoption(given):
            raise HarnessError(f"--study has the cases and options of the study {name}: leave out {option}")
    return study_run(name, profile, registry, report=report)


def compares(config: pytest.Config) -> bool:
    """Return whether the run is the nightly form, in which nothing passes that could not be judged."""
    return bool(config.getoption("benchmark_compare"))


def _accepts(config: pytest.Config) -> bool:
    return bool(config.getoption("benchmark_save") or config.getoption("benchmark_autosave"))


def _policy(config: pytest.Config) -> Policy:
    name = config.getoption("gate_policy")
    return policies.named(name or ("nightly" if _accepts(config) or compares(config) else "pr"))


def stored_runs(config: pytest.Config) -> Path | None:
    """Return the folder of stored runs: `baselines/`, or what --benchmark-storage names, if that is a folder."""
    uri = str(config.getoption("benchmark_storage"))
    if uri == "file://./.benchmarks":  # pytest-benchmark's default
        return config.rootpath / "baselines"
    return Path(uri.removeprefix("file://")) if uri.startswith("file://") else None


def _save_model(folder: Path | None) -> Path | None:
    return None if folder is None else refuse_unwritable(folder)


def _device_memory(config: pytest.Config, host: Host) -> int | None:
    text = config.getoption("device_memory")
    if text is None and config.getoption("find_max_batch") and host.device_kind == "cpu":
        raise HarnessError(
            "--find-max-batch on a CPU would fill the machine's memory; say what a rank is to have: --device-memory 1GB"
        )
    return None if text is None else bytes_of(text)


def _plant(config: pytest.Config) -> str:
    text: str = config.getoption("gate_plant") or ""
    if text:
        plant.parse(text)  # refused before anything runs
        if _accepts(config) or config.getoption("benchmark_json"):
            raise HarnessError(f"a run with the fault {text} planted is not stored: leave out what stores it")
    return text


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
    # While a test runs pytest captures what goes to this descriptor; a copy of it still goes to the terminal.
    return ProgressLine(os.fdopen(os.dup(stream.fileno()), "w", encoding="utf-8"), column=writer)


def params(wanted: Grid, suite: Suite, file: Path) -> Iterator[Any]:
    """Yield a pytest parameter for each case of a bench file's grid with each of the run's options.

    A parameter has its case's marks and, if it cannot run here, the reason. Cases that are named by their id follow.
    With a study its cases are yielded instead, in the study's order.
    """
    models = {name: model for name, model in suite.registry.models.items() if model.input is wanted.input}
    if suite.study is not None:
        for case in suite.study.cases:
            if case.model in models:
                yield _param(case.id, case.axes, suite.profile.settings(models[case.model]), suite)
        return
    settings = {name: suite.profile.settings(model) for name, model in models.items()}
    batch_sizes = {name: of_model.batch_sizes for name, of_model in settings.items()}
    made: set[str] = set()
    sizes: list[tuple[int | None, Iterable[int]]] = [(None, wanted.gpu_counts), *_over_nodes(wanted, suite).items()]
    for per_node, counts in sizes:
        cells = grid(
            models=models,
            strategies=[
                name
                for name, strategy in suite.registry.strategies.items()
                # On a single node only to say why not, if it was named.
                if per_node or strategy.hierarchy is None or name in suite.selection.named
            ],
            gpu_counts=counts,
            batch_sizes=batch_sizes,
        )
        for cell, tokens in itertools.product(cells, suite.selection.variants):
            own = combine(tokens)
            if own.setdefault("gpus_per_node", per_node) != per_node:
                continue
            name = "-".join((cell.id, *filter(None, itertools.starmap(spell, own.items()))))
            if name in made:
                continue
            made.add(name)
            yield _param(name, cell.axes | own, settings[cell.model], suite)
    for place, case in suite.selection.cases:
        if place == file and case.model in models and case.id not in made:
            made.add(case.id)
            yield _param(case.id, case.axes, settings[case.model], suite)


def _over_nodes(wanted: Grid, suite: Suite) -> dict[int, list[int]]:
    """Return the GPU counts that fill several nodes, by the GPUs of each: of the host's nodes, or of a size named."""
    each, nodes = suite.host.devices_per_node, len(suite.host.nodes)
    powers = itertools.takewhile(lambda count: count < nodes, (2**n for n in itertools.count(1)))
    filled = {count * each: None for count in (*powers, nodes)} if nodes > 1 else {}
    named = {axes["gpus_per_node"] for axes in map(combine, suite.selection.variants) if "gpus_per_node" in axes}
    found = {each: list(filled)} if filled else {}
    for per_node in sorted(named):
        counts = dict.fromkeys(sorted({*wanted.gpu_counts, *filled}))
        found[per_node] = [count for count in counts if count > per_node and count % per_node == 0]
    return found


def _param(name: str, axes: dict[str, Any], settings: ModelSettings, suite: Suite) -> Any:
    marks = [
        pytest.mark.bench(**axes),
        pytest.mark.benchmark(timer=ReplayClock(), group=f"{axes['model']} bs{axes['batch_size']}"),
    ]
    case: Case | None = None
    try:
        case = Case(**axes)
        reason = why_not(
            case,
            host=suite.host,
            registry=suite.registry,
            settings=settings,
            data_root=suite.options.data_root,
            download=suite.options.download,
        )
    except CaseError as error:
        reason = f"no such case: {error}"
    if reason:
        marks.append(pytest.mark.skip(reason=reason))
    if suite.study is not None and case is not None:
        if reason:
            suite.study.impossible[case] = reason
        if word := suite.study.when_named(case):
            marks.append(pytest.mark.when_named(word))
    elif not settings.in_default_matrix:
        marks.append(pytest.mark.when_named(axes["model"]))
    return pytest.param(case, id=name, marks=marks)


def refuse_unknown_names(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Raise for a word of -k or an axis of -m that no test has, rather than run nothing for it."""
    cases = [case for case in map(case_of, items) if case]
    if not cases:
        return
    try:
        refuse_unknown(
            config.getoption("keyword"), config.getoption("markexpr"), cases=cases, tests=(i.nodeid for i in items)
        )
    except CaseError as error:
        raise pytest.UsageError(str(error)) from error


def case_of(item: pytest.Item) -> Case | None:
    """Return the case a test is made of, if it is."""
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("case") if callspec else None
    return case if isinstance(case, Case) else None
