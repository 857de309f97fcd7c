"""From a case to its verdict: the one place where the way of the data is written down."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import platformdirs

from harness import sampling, store
from harness.anatomy import memory
from harness.anatomy.fitting import Largest
from harness.anatomy.memory import MemoryFigures
from harness.anatomy.telemetry import disturbance
from harness.case import Case
from harness.certificate import Certificate
from harness.certifier import Certifier, source_of
from harness.errors import DataError, HarnessError, StoreError, WorkerFailed
from harness.explainer import Explainer
from harness.gate.exact import compare
from harness.gate.limits import Verdict, judge, with_exact
from harness.host import Host
from harness.job import DataSettings, Job
from harness.plugins import Model, Processes, Session
from harness.profiles import ModelSettings, Profile
from harness.registry import Registry
from harness.results import RankReport, Repeat, Result
from harness.sampling import Window
from harness.store import Stored

REFERENCE_STRATEGY = "ddp"
"""Speedup is taken against this strategy on one GPU with the same batch per GPU."""

_LIMITED = (None, "measure", "account", "trace", "fit")
"""Purposes that --device-memory holds for; the reference plays all ranks in one, and needs more."""
_WARM_START_TIMEOUT_S = 1800.0
_WARM_START_RANKS = 2
"""The same on every machine that can, so that the weights are the same too."""


class Watch(Protocol):
    """Shows a person where the ranks of a job are."""

    def __call__(self, title: str, folder: Path) -> AbstractContextManager[None]:
        """Show it while the block runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the command line asked for."""

    data_root: Path | None = None
    download: bool = False
    plugins: tuple[str, ...] = ()
    launcher: str = "warm"
    case_timeout_s: float | None = None
    reference: Literal["run", "baseline"] = "run"
    baselines: Path | None = None
    """Folder of this host's stored runs."""
    recertify: bool = False
    """Whether certificates of earlier runs are made again."""
    accounted: bool = False
    """Whether each case is run once more to count the bytes of its tensors."""
    traced: bool = False
    """Whether each case is run once more under torch's profiler."""
    forecast: str | None = None
    """Links to forecast over, `measured` for this machine's own; None forecasts nothing."""
    find_max_batch: bool = False
    """Whether the largest batch is searched for, in place of a measurement."""
    device_memory_bytes: int | None = None
    """What a rank may allocate at most; None leaves the limit to the device."""
    seeds: int = 1
    """Trainings of each case, with seeds 0, 1, ...; the first is timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case."""

    case: Case
    result: Result
    reference: Result | None
    reference_note: str
    """Why there is no reference, or where it came from."""
    verdict: Verdict
    certificate: Certificate
    memory: MemoryFigures | None = None
    """With `--accounted`: what it held, and what is wrong with that."""


class Pipeline:
    """Runs cases one after another on one machine under one profile."""

    def __init__(self, *, host: Host, registry: Registry, profile: Profile, options: RunOptions, watch: Watch) -> None:
        self.host = host
        self.registry = registry
        self.profile = profile
        self.options = options
        self.extra: dict[str, Result] = {}
        """References that were run though no test asked for them, by case id."""
        self._watch = watch
        self._session: Session | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="shardbench-"))
        self._keep = False
        self._results: dict[Case, Result | HarnessError] = {}
        self._prepared: dict[str, HarnessError | None] = {}
        self._warm_starts: dict[Path, HarnessError | None] = {}
        self.certifier = Certifier(
            registry=registry,
            kept=cache_folder() / "certificates",
            folder=self._folder / "references",
            facts={
                "versions": host.versions,
                "machine": host.name,
                "device_kind": host.device_kind,
                "plugins": options.plugins,
            },
            launch=self._launch_for,
            recertify=options.recertify,
        )
        self.explainer = Explainer(
            launch=self._launch_for, sampled=self._sampled, accounted=options.accounted, traced=options.traced
        )

    def run(self, case: Case, *, baseline: Stored | None) -> Outcome:
        """Measure a case and judge it against what is stored.

        Raises:
            WorkerFailed: a rank died, hung or did not report.
            DataError: its dataset is damaged or too small.
            StoreError: something cannot be written.
        """
        certificate = self.certificate(case)
        result = self.measure(case)
        result = self.explainer.explain(case, result)
        reference, note = self.reference(case) if certificate.granted else (None, "")
        comparable, why = self._comparable(result, baseline)
        verdict = judge(
            result,
            reference,
            baseline=comparable.result if comparable else None,
            baseline_reference=comparable.reference if comparable else None,
            metrics=self.registry.metrics.values(),
            disturbed=disturbance(result.watched) if result.watched else (),
        )
        if comparable is not None:
            exact = compare(
                result,
                certificate,
                baseline=comparable.result,
                baseline_certificate=comparable.certificate,
            )
            verdict = with_exact(verdict, exact)
        strategy = self.registry.find("strategies", case.strategy)
        held = memory.figures(case, strategy, result.accounts) if result.accounts else None
        if held is not None and held.causes:
            verdict = replace(verdict, word="mispredicted")
        if not certificate.granted:
            verdict = replace(verdict, word="uncertified")
        return Outcome(
            case=case,
            result=result,
            reference=reference,
            reference_note=note or why,
            verdict=verdict,
            certificate=certificate,
            memory=held,
        )

    def certificate(self, case: Case) -> Certificate:
        """Return whether a case trains as the reference does.

        Raises:
            WorkerFailed: the strategy could not train the certified steps.
        """
        settings = self.settings(case)
        self._prepare(case, settings)
        weights = self._warm_start(case, settings)
        facts = {
            "settings": asdict(settings),
            "data": asdict(self._data(settings)),
            "weights": weights and weights.name,
        }
        return self.certifier.certificate(case, facts)

    def _launch_for(self, case: Case, title: str, **over: Any) -> tuple[Sequence[RankReport], float]:
        settings = self.settings(case)
        weights = self._warm_start(case, settings)
        return self._launch(self._job(case, settings, weights=weights, **over), title)

    def largest_batch(self, case: Case) -> Largest:
        """Return the largest batch that fits a certified case's devices.

        Raises:
            WorkerFailed: a batch failed for another reason than memory, or the case has no certificate.
        """
        certificate = self.certificate(case)
        if not certificate.granted:
            raise WorkerFailed(f"{case}: not certified, so its batch says nothing: {certificate.causes[0]}")
        return self.explainer.largest(case)

    def measure(self, case: Case) -> Result:
        """Return the result of a case, from this run's memory if it ran already."""
        if case not in self._results:
            try:
                self._results[case] = self.fresh(case)
            except HarnessError as error:
                self._results[case] = error
        known = self._results[case]
        if isinstance(known, HarnessError):
            raise known
        return known

    def reference(self, case: Case) -> tuple[Result | None, str]:
        """Return the result that a case's speedup is taken against, or None and why there is none."""
        wanted = reference_of(case)
        if wanted == case:
            return self.measure(case), ""
        if self.options.reference == "baseline":
            if self.options.baselines is None:
                return None, "no folder of stored runs to take the reference from"
            identity = self.identity(wanted)
            stored = store.newest(self.options.baselines, case_id=wanted.id, identity=identity)
            if stored is None:
                return None, f"no stored run holds the reference {wanted}; leave out --reference baseline to run it"
            return stored.result, f"reference {wanted} from {stored.where}"
        asked = wanted not in self._results
        try:
            if not self.certificate(wanted).granted:
                return None, f"the reference {wanted} has no certificate"
            result = self.measure(wanted)
        except HarnessError as error:
            return None, f"the reference {wanted} failed: {str(error).splitlines()[0]}"
        if asked:
            self.extra[wanted.id] = result
        return result, ""

    def start(self) -> Session:
        """Open the launcher, which then loads its libraries while pytest still collects."""
        if self._session is None:
            self._session = self.registry.find("launchers", self.options.launcher).open(self.host, self._folder)
        return self._session

    def close(self) -> None:
        """End every process and delete the run's folder, unless a failure is in it."""
        if self._session is not None:
            self._session.close()
            self._session = None
        if not self._keep:
            shutil.rmtree(self._folder, ignore_errors=True)

    def identity(self, case: Case) -> str:
        """Return a digest of everything but the machine that two results must share to be compared."""
        settings = self.settings(case)
        facts = {
            "case": case.id,
            "profile": self.profile.name,
            "settings": asdict(settings),
            "dataset": self._data(settings).name,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def settings(self, case: Case) -> ModelSettings:
        """Return how this profile trains the case's model."""
        return self.profile.settings(self.registry.find("models", case.model))

    def overhead(self, case: Case, *, steps: int) -> Sequence[RankReport]:
        """Return reports whose `extra` pairs the harness's step with a bare loop's."""
        settings = self.settings(case)
        self._prepare(case, settings)
        job = self._job(case, settings, purpose="overhead", measured_steps=steps)
        return self._launch(job, f"{case}: harness against a bare loop")[0]

    def fresh(self, case: Case) -> Result:
        """Measure a case whether or not this run did before."""
        settings = self.settings(case)
        self._prepare(case, settings)
        weights = self._warm_start(case, settings)
        started = time.time()
        with self._sampled(case, interval_s=None) as window:
            reports, wall_s = self._launch(self._job(case, settings, weights=weights), str(case))
        repeats = []
        for seed in range(1, self.options.seeds):
            job = self._job(case, settings, weights=weights, seed=seed, measured_steps=1)
            repeat, _ = self._launch(job, f"{case}: seed {seed} of {self.options.seeds}")
            repeats.append(Repeat(seed=seed, epochs=repeat[0].epochs))
        return Result(
            case_id=case.id,
            profile=self.profile.name,
            identity=self.identity(case),
            dataset=self._data(settings).name,
            settings=asdict(settings),
            host=self.host.name,
            launcher=self.options.launcher,
            conditions=self.start().conditions,
            versions=self.host.versions,
            oversubscribed=self.host.device_kind == "cpu" and case.gpu_count > len(self.host.cores),
            wall_s=wall_s,
            started_unix_s=started,
            watched=window.telemetry,
            ranks=tuple(reports),
            repeats=tuple(repeats),
        )

    def _sampled(self, case: Case, *, interval_s: float | None) -> AbstractContextManager[Window]:
        """Return what reads the machine while ranks of a case run."""
        count = case.gpu_count
        return sampling.window(
            gpus=[gpu.uuid for gpu in self.host.gpus[:count]],
            cores=() if self.host.gpus else self.host.cores[:count],
            interval_s=interval_s,
        )

    def _prepare(self, case: Case, settings: ModelSettings) -> None:
        """Make and verify the dataset's files, once per run."""
        name = self._data(settings).name
        if name not in self._prepared:
            job = self._job(case, settings, purpose="prepare_data", ranks=1)
            try:
                self._launch(job, f"preparing {name}", timeout_s=_WARM_START_TIMEOUT_S)
                self._prepared[name] = None
            except HarnessError as error:
                self._prepared[name] = error
        if failure := self._prepared[name]:
            raise DataError(f"dataset {name} is not ready: {failure}")

    def _warm_start(self, case: Case, settings: ModelSettings) -> Path | None:
        """Return the weights to start from, trained now if no run on this machine did before."""
        data = self._data(settings)
        recipe = settings.warm_start
        if recipe is None or data.name != settings.embedded:
            return None
        model: Model = self.registry.find("models", case.model)
        file = cache_folder() / "warm_starts" / f"{model.name}-{self._recipe_digest(model, settings)}.pt"
        if file not in self._warm_starts:
            self._warm_starts[file] = None
            if not file.exists():
                try:
                    self._train_warm_start(model, settings, file)
                except HarnessError as error:
                    self._warm_starts[file] = error
        if failure := self._warm_starts[file]:
            raise failure
        return file

    def _train_warm_start(self, model: Model, settings: ModelSettings, file: Path) -> None:
        recipe = settings.warm_start
        assert recipe is not None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cache {file.parent} cannot be made: {error.strerror}; set SHARDBENCH_CACHE") from error
        ranks = min(_WARM_START_RANKS, self.host.most_ranks)
        case = Case(
            model=model.name,
            strategy=REFERENCE_STRATEGY,
            gpu_count=ranks,
            batch_size=max(1, recipe.batch_size // ranks),
        )
        job = self._job(
            case,
            settings,
            purpose="warm_start",
            weights=file,
            epochs=recipe.epochs,
            optimizer=recipe.optimizer,
        )
        self._launch(job, f"warm start of {model.name} (once per machine)", timeout_s=_WARM_START_TIMEOUT_S)

    def _recipe_digest(self, model: Model, settings: ModelSettings) -> str:
        source = source_of(model.build)
        facts = json.dumps([asdict(settings), self.host.versions.get("torch"), self.host.device_kind], sort_keys=True)
        return hashlib.sha256(source + facts.encode()).hexdigest()[:12]

    def _launch(self, job: Job, title: str, *, timeout_s: float | None = None) -> tuple[Sequence[RankReport], float]:
        timeout_s = timeout_s or self.options.case_timeout_s or self.profile.case_timeout_s
        session = self.start()
        began = time.monotonic()
        try:
            with self._watch(title, job.folder):
                reports = session.launch(job, timeout_s=timeout_s)
        except BaseException:
            self._keep = True
            raise
        wall_s = time.monotonic() - began
        shutil.rmtree(job.folder, ignore_errors=True)
        return reports, wall_s

    def _job(self, case: Case, settings: ModelSettings, **over: Any) -> Job:
        strategy = self.registry.find("strategies", case.strategy)
        one = strategy.processes is Processes.ONE
        cuda = self.host.device_kind == "cuda"
        facts: dict[str, Any] = {
            "case_id": case.id,
            "ranks": 1 if one else case.gpu_count,
            "devices_per_process": case.gpu_count if one else 1,
            "device_kind": self.host.device_kind,
            "backend": "nccl" if cuda else "gloo",
            "data": self._data(settings),
            "epochs": settings.epochs,
            "warmup_steps": settings.warmup_steps,
            "measured_steps": settings.measured_steps,
            "optimizer": settings.optimizer,
            "loader_workers": settings.loader_workers,
            "pretrained": settings.pretrained,
            "cores": () if cuda else self.host.cores,
            "threads": max(1, len(self.host.cores) // len(self.host.gpus)) if cuda else 1,
            "plugins": self.options.plugins,
            "device_memory_bytes": self.options.device_memory_bytes if over.get("purpose") in _LIMITED else None,
            "folder": Path(tempfile.mkdtemp(prefix=f"{case.id}-", dir=self._folder)),
            "asked_s": time.monotonic(),
        }
        return Job(**(facts | over))

    def _data(self, settings: ModelSettings) -> DataSettings:
        root = self.options.data_root
        return DataSettings(
            name=settings.dataset if root or not settings.embedded else settings.embedded,
            root=root or cache_folder() / "datasets",
            image_size=settings.image_size,
            train_images=settings.train_images,
            val_images=settings.val_images,
            download=self.options.download,
        )

    def _comparable(self, result: Result, baseline: Stored | None) -> tuple[Stored | None, str]:
        if baseline is None:
            return None, ""
        if baseline.result.host != result.host:
            return None, f"{baseline.where} is of another machine, {baseline.result.host}: not compared"
        if baseline.result.conditions != result.conditions:
            names = (one.conditions or "the machine's own links" for one in (baseline.result, result))
            return None, f"{baseline.where} was run with {' and this run with '.join(names)}: not compared"
        if baseline.result.identity != result.identity:
            return None, f"{baseline.where} is of another set-up (profile, settings or data): not compared"
        return baseline, ""


def reference_of(case: Case) -> Case:
    """Return the case whose throughput is 1.00x for this one: the same but for strategy and GPU count.

    And but for offload, which DDP has none of.
    """
    axes = case.axes | {"strategy": REFERENCE_STRATEGY, "gpu_count": 1, "offload": "none"}
    return Case(**axes)


def cache_folder() -> Path:
    """Return where made datasets and warm starts are kept: SHARDBENCH_CACHE, or the user's cache folder."""
    return Path(os.environ.get("SHARDBENCH_CACHE") or platformdirs.user_cache_path("shardbench"))
