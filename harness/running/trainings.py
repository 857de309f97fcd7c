"""Trainings that are more than timed: taken up again where they were interrupted, their best model scored and saved."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.case import Case
from harness.errors import CannotRun, StoreError
from harness.plugins import Metric, Processes
from harness.registry import Registry
from harness.results import RankReport, Result
from harness.running.job import DataSettings
from harness.stored import checkpoints, saved_models
from harness.stored.saved_models import SavedModel
from harness.stored.writing import probe


@dataclass(slots=True, kw_only=True)
class Trainings:
    """Starts the trainings of a run, and finishes them."""

    launch: Callable[..., tuple[Sequence[RankReport], float]]
    """Given a case, a title and fields of its job: start the ranks; returns their reports and the seconds it took."""
    facts: Callable[..., dict[str, Any]]
    """Given a case and fields of its job: what its training depends on."""
    data: Callable[[Case], DataSettings]
    """Given a case: what it is trained on."""
    registry: Registry
    folder: Path
    """For what this run alone keeps; with `resume`, for what later ones find."""
    resume: bool = False
    """Whether trainings that were interrupted are taken up, and all are kept so that they can be."""
    tested: bool = False
    """Whether the best model of each is scored on the test split."""
    saved_to: Path | None = None
    """Folder in which the best model of each is saved; None saves none."""
    _finished: list[Path] = field(default_factory=list)
    _locks: ExitStack = field(default_factory=ExitStack)
    """Of folders that no other run may write to."""

    def train(self, case: Case, title: str, **over: Any) -> tuple[Sequence[RankReport], float, str]:
        """Train a case; returns the reports, the seconds it took, and what became of an earlier training of it.

        Raises:
            CannotRun: its dataset has no test split, and the model is to be scored there.
            WorkerFailed: a rank died, hung or did not report.
            StoreError: what is to be kept cannot be written, or another run keeps this training.
        """
        if self.tested:
            self._refuse_untested(case)
        if not (self.resume or (self._finishes and not over.get("seed"))):
            return *self.launch(case, title, **over), ""
        folder = self._folder(case, over.get("seed", 0))
        if self.resume:
            self._locks.enter_context(checkpoints.held(folder))
        facts = self.facts(case, **over)
        begin_from, wrong = checkpoints.newest(folder, facts) if self.resume else (None, "")
        if begin_from is None:
            checkpoints.forget(folder)
            note = f"begun anew: {wrong}" if wrong else ""
        else:
            note = f"taken up after {begin_from.name.replace('-', ' ')} of {facts['epochs']}" + (wrong and f"; {wrong}")
        reports, wall_s = self.launch(case, title, checkpoints=folder, begin_from=begin_from, **over)
        self._finished.append(folder)
        return reports, wall_s, note

    def finish(self, case: Case, result: Result) -> Result:
        """Return the result with what the model of its best epoch scores, and save that model, as far as asked for.

        Raises:
            WorkerFailed: a rank died, hung or did not report.
            StoreError: the model cannot be saved.
        """
        if not self._finishes:
            return result
        metric = self.registry.scoring(self.registry.find("models", case.model).input)[0]
        best = checkpoints.best_epoch(result.lead.epochs, metric)
        target = None if self.saved_to is None else self.saved_to / case.id
        part = None if target is None else target.with_name(f".{case.id}.{os.getpid()}.part")
        try:
            reports, _ = self.launch(
                case,
                f"{case}: its best model",
                purpose="score",
                begin_from=checkpoints.folder_of(self._folder(case, 0), best),
                scored="test" if self.tested else "",
                saved=part,
            )
            found = reports[0].extra
            result = replace(
                result,
                best_epoch=best,
                test_scores=found.get("scores", {}),
                confusion=tuple(tuple(row) for row in found.get("confusion", ())),
            )
            if target is not None and part is not None:
                saved_models.complete(part, target, self._about(case, result, metric))
        finally:
            if part is not None:
                shutil.rmtree(part, ignore_errors=True)
        if not self.resume:
            checkpoints.forget(self._folder(case, 0))
        return result

    def close(self) -> None:
        """Delete what is kept of trainings that came to their end."""
        for folder in self._finished:
            checkpoints.forget(folder)
        self._locks.close()

    def _refuse_untested(self, case: Case) -> None:
        data = self.data(case)
        if reason := self.registry.find("datasets", data.name).untested(data.spec):
            raise CannotRun(f"{case}: {data.name} has no test split: {reason}; or leave out --tested")

    @property
    def _finishes(self) -> bool:
        return self.tested or self.saved_to is not None

    def _folder(self, case: Case, seed: int) -> Path:
        return self.folder / f"{case.id}-seed{seed}"

    def _about(self, case: Case, result: Result, metric: Metric) -> SavedModel:
        strategy = self.registry.find("strategies", case.strategy)
        assert result.best_epoch is not None, "the best epoch was just scored"
        scores = {"val": result.lead.epochs[result.best_epoch - 1].scores or {}}
        return SavedModel(
            model=case.model,
            classes=self.registry.find("datasets", result.dataset).classes,
            image_size=result.settings["image_size"],
            dataset=result.dataset,
            case_id=case.id,
            profile=result.profile,
            epoch=result.best_epoch,
            metric=metric.name,
            scores=scores | ({"test": result.test_scores} if self.tested else {}),
            batch_size=case.batch_size * (case.gpu_count if strategy.processes is Processes.ONE else 1),
            settings=result.settings,
        )


def refuse_unwritable(folder: Path) -> Path:
    """Return the folder that models are to be saved in, made if it is not there.

    Raises:
        StoreError: it cannot be made, or nothing can be written there.
    """
    try:
        return probe(folder).resolve()
    except OSError as error:
        raise StoreError(f"--save-model {folder} cannot be written: {error.strerror}; name another folder") from error
