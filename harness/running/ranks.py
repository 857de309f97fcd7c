"""Starts the ranks of a case: its data made ready, its warm start trained, its job written, its machine read."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from harness.case import Case
from harness.errors import DataError, HarnessError, StoreError
from harness.gate.policy import POLICIES, Policy
from harness.machine import leftovers, sampling
from harness.machine.host import Host
from harness.machine.sampling import Window
from harness.plugins import Model, Processes, Session
from harness.profiles import ModelSettings, Profile
from harness.registry import Registry
from harness.results import RankReport
from harness.running.job import DataSettings, Job
from harness.running.progress import HANG_S
from harness.source import source_of
from harness.stored.cache import cache_folder, shared_folder
from harness.stored.checkpoints import facts_of

REFERENCE_STRATEGY = "ddp"
"""Speedup is taken against this strategy on one GPU with the same batch per GPU."""

_LIMITED = (None, "measure", "account", "trace", "fit")
"""Purposes that --device-memory holds for; the reference plays all ranks in one, and needs more."""
_PLANTED = (None, "measure", "replicate", "certify", "account", "trace")
"""Purposes that have the fault of --gate-plant: what trains as the strategy does."""
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
    hang_s: float = HANG_S
    """Without a step for so long, a training is ended."""
    reference: Literal["run", "baseline"] = "run"
    references: frozenset[Case] | None = None
    """Cases that a speedup may be taken over; None runs any that one is."""
    baselines: Path | None = None
    """Folder of stored runs, of all hosts."""
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
    policy: Policy = POLICIES["pr"]
    """How much is sampled to judge the time, and what becomes of a case that cannot be judged."""
    gate_budget_s: float | None = None
    """For the processes of a case's screen; None leaves it to the policy."""
    stored: bool = False
    """Whether this run will be stored, so that even a new case is sampled."""
    plant: str = ""
    """A fault that every case is to have, to see that it is found."""
    seeds: int = 1
    """Trainings of each case, with seeds 0, 1, ...; the first is timed."""
    resume: bool = False
    """Whether trainings that were interrupted are taken up, and all are kept so that they can be."""
    tested: bool = False
    """Whether the best model of each training is scored on the test split."""
    save_model: Path | None = None
    """Folder in which the best model of each training is saved; None saves none."""


class Ranks:
    """Starts ranks on one machine under one profile, job after job."""

    def __init__(self, *, host: Host, registry: Registry, profile: Profile, options: RunOptions, watch: Watch) -> None:
        self._host = host
        self._registry = registry
        self._profile = profile
        self._options = options
        self._watch = watch
        self._session: Session | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="shardbench-", dir=shared_folder() if host.nodes else None))
        """Of this run's jobs; it stays where one failed."""
        leftovers.sweep(self.folder.parent.glob("shardbench-*"))
        self._in_use = leftovers.own(self.folder)
        self._keep = False
        self._gpu_bytes = leftovers.gpu_memory([gpu.uuid for gpu in host.gpus])
        self.running = ""
        """What the ranks do that run or ran last, for a person."""
        self.left: list[str] = []
        """What ranks left behind when they ended, a sentence each; it was ended or deleted before the next case."""
        self._prepared: dict[str, HarnessError | None] = {}
        self._warm_starts: dict[Path, HarnessError | None] = {}

    def launch(self, case: Case, title: str, **over: Any) -> tuple[Sequence[RankReport], float]:
        """Run a case's ranks from its warm start and return their reports, and the seconds from asking to holding them.

        Args:
            case: what to run.
            title: for the person who waits.
            **over: fields of the job that are to be other than the case's own.

        Raises:
            WorkerFailed: a rank died, hung or did not report.
            DataError: the dataset is not ready.
        """
        weights = self.warm_start(case)
        return self._launch(self._job(case, self.settings(case), weights=weights, **over), title)

    def facts(self, case: Case, **over: Any) -> dict[str, Any]:
        """Return what the training depends on that `launch` would start."""
        return facts_of(self._job(case, self.settings(case), weights=self.warm_start(case), **over))

    def start(self) -> Session:
        """Open the launcher, which then loads its libraries while pytest still collects."""
        if self._session is None:
            self._session = self._registry.find("launchers", self._options.launcher).open(self._host, self.folder)
        return self._session

    def renew(self) -> None:
        """End the launcher's processes; what is started next is started by new ones."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def close(self) -> None:
        """End every process and delete the run's folder, unless a failure is in it."""
        self.renew()
        self._in_use.close()
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def settings(self, case: Case) -> ModelSettings:
        """Return how this profile trains the case's model."""
        return self._profile.settings(self._registry.find("models", case.model))

    def sampled(self, case: Case, *, interval_s: float | None) -> AbstractContextManager[Window]:
        """Return what reads the machine while ranks of a case run."""
        count = case.gpus_per_node or case.gpu_count  # of this node; others are not looked at
        return sampling.window(
            gpus=[gpu.uuid for gpu in self._host.gpus[:count]],
            cores=() if self._host.gpus else self._host.cores[:count],
            interval_s=interval_s,
        )

    def prepare(self, case: Case) -> None:
        """Make and verify the files of a case's dataset, once per run.

        Raises:
            DataError: it is not ready.
        """
        settings = self.settings(case)
        name = self.data(settings).name
        if name not in self._prepared:
            job = self._job(case, settings, purpose="prepare_data", ranks=1)
            try:
                self._launch(job, f"preparing {name}", timeout_s=_WARM_START_TIMEOUT_S)
                self._prepared[name] = None
            except HarnessError as error:
                self._prepared[name] = error
        if failure := self._prepared[name]:
            raise DataError(f"dataset {name} is not ready: {failure}")

    def warm_start(self, case: Case) -> Path | None:
        """Return the weights to start from, trained now if no run on this machine did before; None starts as built.

        Raises:
            DataError: the dataset is not ready.
            WorkerFailed: the training failed.
            StoreError: its weights cannot be written.
        """
        settings = self.settings(case)
        self.prepare(case)
        data = self.data(settings)
        recipe = settings.warm_start
        if recipe is None or data.name != settings.embedded:
            return None
        model: Model = self._registry.find("models", case.model)
        file = cache_folder() / "warm_starts" / f"{model.name}-{self._recipe_digest(model)}.pt"
        if file not in self._warm_starts:
            self._warm_starts[file] = None
            if not file.exists():
                try:
                    self._train_warm_start(model, self._profile.begun_with(model), file)
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
        ranks = min(_WARM_START_RANKS, self._host.most_ranks)
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

    def _recipe_digest(self, model: Model) -> str:
        source = source_of(model.build)
        begun_with = self._profile.begun_with(model).facts
        facts = json.dumps([begun_with, self._host.versions.get("torch"), self._host.device_kind], sort_keys=True)
        return hashlib.sha256(source + facts.encode()).hexdigest()[:12]

    def _launch(self, job: Job, title: str, *, timeout_s: float | None = None) -> tuple[Sequence[RankReport], float]:
        timeout_s = timeout_s or self._options.case_timeout_s or self._profile.case_timeout_s
        session = self.start()
        before = leftovers.look(self._gpu_bytes)
        self.running = title
        began = time.monotonic()
        try:
            with self._watch(title, job.folder):
                reports = session.launch(job, timeout_s=timeout_s)
        except BaseException as error:
            self._keep = True
            leftovers.keep(self.folder)
            if not isinstance(error, Exception):
                self.renew()  # interrupted, so that its ranks still run
            raise
        finally:
            wall_s = time.monotonic() - began
            self.left += leftovers.clear(job.folder, before, gpu_bytes=self._gpu_bytes)
        shutil.rmtree(job.folder, ignore_errors=True)
        return reports, wall_s

    def _job(self, case: Case, settings: ModelSettings, **over: Any) -> Job:
        strategy = self._registry.find("strategies", case.strategy)
        one = strategy.processes is Processes.ONE
        cuda = self._host.device_kind == "cuda"
        facts: dict[str, Any] = {
            "case_id": case.id,
            "ranks": 1 if one else case.gpu_count,
            "ranks_per_node": None if "ranks" in over else case.gpus_per_node,
            "devices_per_process": case.gpu_count if one else 1,
            "device_kind": self._host.device_kind,
            "backend": "nccl" if cuda else "gloo",
            "data": self.data(settings),
            "epochs": settings.epochs,
            "warmup_steps": settings.warmup_steps,
            "measured_steps": settings.measured_steps,
            "optimizer": settings.optimizer,
            "loader_workers": settings.loader_workers,
            "pretrained": settings.pretrained,
            "cores": () if cuda else self._host.cores,
            "threads": max(1, len(self._host.cores) // len(self._host.gpus)) if cuda else 1,
            "plugins": self._options.plugins,
            "plant": self._options.plant if over.get("purpose") in _PLANTED else "",
            "device_memory_bytes": self._options.device_memory_bytes if over.get("purpose") in _LIMITED else None,
            "folder": Path(tempfile.mkdtemp(prefix=f"{case.id}-", dir=self.folder)),
            "asked_s": time.monotonic(),
            "hang_s": self._options.hang_s,
        }
        return Job(**(facts | over))

    def data(self, settings: ModelSettings) -> DataSettings:
        """Return the data that settings ask for: from disk where there is a folder, else what is embedded."""
        root = self._options.data_root
        return DataSettings(
            name=settings.dataset if root or not settings.embedded else settings.embedded,
            root=root or cache_folder() / "datasets",
            image_size=settings.image_size,
            train_images=settings.train_images,
            val_images=settings.val_images,
            test_images=settings.test_images,
            carved_images=settings.carved_images,
            augment=settings.augment,
            normalise=settings.normalise,
            download=self._options.download,
        )
