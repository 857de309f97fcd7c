"""What a rank can be started for: to measure a case, to train a warm start, to make a dataset's files."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from harness.case import Case
from harness.errors import StoreError
from harness.plugins import BuiltModel, Dataset, Metric, Model, ModelSpec, Split, Strategy, Trainee, Workload, World
from harness.registry import Registry
from harness.results import EpochReport, Memory
from harness.running.job import Job
from harness.stored import checkpoints
from harness.stored.writing import whole
from harness.worker import faults, options
from harness.worker.evaluation import average_buffers, evaluate
from harness.worker.keeping import Keeper, nothing, unmeasured, with_steps
from harness.worker.loading import TrainingData, ValidationData
from harness.worker.process import Progress, ResidentPeak
from harness.worker.training import TrainingLoop

_NOTHING = Registry(strategies={}, models={}, datasets={}, metrics={}, launchers={})


@dataclass(slots=True, kw_only=True)
class Context:
    """What a purpose works with."""

    job: Job
    case: Case
    world: World
    phases: Callable[[str], AbstractContextManager[None]]
    progress: Progress
    registry: Registry = field(default=_NOTHING)
    planted: dict[str, float] = field(default_factory=dict)
    """What a planted fault came to."""

    @property
    def strategy(self) -> Strategy:
        """The case's strategy."""
        return self.registry.find("strategies", self.case.strategy)  # type: ignore[no-any-return]

    @property
    def model(self) -> Model:
        """The case's model."""
        return self.registry.find("models", self.case.model)  # type: ignore[no-any-return]

    @property
    def dataset(self) -> Dataset:
        """The job's dataset."""
        return self.registry.find("datasets", self.job.data.name)  # type: ignore[no-any-return]

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that score what the model predicts."""
        return self.registry.scoring(self.model.input)

    @property
    def batch_size(self) -> int:
        """Samples of one batch of this rank."""
        return self.case.batch_size * self.job.devices_per_process

    def open(self, split: Split) -> Any:
        """Return the torch dataset of a split."""
        return self.dataset.open(replace(self.job.data.spec, masks=self.model.masks), split)

    def training_data(self, split: Split) -> TrainingData:
        """Return the training batches of this rank."""
        return TrainingData(
            self.open(split),
            self.world,
            kind=self.model.input,
            batch_size=self.batch_size,
            seed=self.job.seed,
            workers=self.job.loader_workers,
            augmented=split == "train" and self.job.data.augment != "none",
        )

    def build(self) -> BuiltModel:
        """Return the model, the same on every rank."""
        torch.manual_seed(self.job.seed)
        built = self.model.build(
            ModelSpec(
                classes=self.dataset.classes,
                image_size=self.job.data.image_size,
                weights=self.job.weights if self.job.purpose != "warm_start" else None,
                pretrained=self.job.pretrained,
            )
        )
        built.module.to(self.world.device)
        return built

    def workload(self, built: BuiltModel) -> Workload:
        """Return the model and how it is to be trained, as the case's options ask for."""
        case = self.case
        options.prepare(built, case)
        return Workload(
            module=built.module,
            loss=options.loss(self.model.input, case, self.world.device),
            optimizer=options.optimizer(self.job.optimizer.spec, case),
            blocks=built.blocks,
            batch_size=case.batch_size,
            accumulation=case.accumulation,
            clipping=case.clipping,
            precision=case.precision,
            offload=case.offload == "cpu",
        )

    def shard(self, workload: Workload) -> Trainee:
        """Return the model as the strategy trains it."""
        if self.job.plant:
            job = self.job
            trainee = faults.shard(job.plant, self.strategy.shard, workload, self.world, self.planted, job.folder)
        else:
            trainee = self.strategy.shard(workload, self.world)
        # Building consumed equal random numbers on every rank; from here each rank draws its own.
        torch.manual_seed(self.job.seed + 1 + self.world.rank)
        return trainee

    def schedule(self, optimizer: torch.optim.Optimizer, images: int) -> LRScheduler | None:
        """Return the learning-rate schedule over all steps that a measurement of the case makes."""
        job = self.job
        steps = max(job.epochs * (images // self.case.global_batch_size), job.warmup_steps + job.measured_steps)
        return options.schedule(optimizer, self.case, steps=steps)


def measure(context: Context) -> dict[str, Any]:
    """Train and evaluate a case, and return the fields of its report."""
    job, world, phases = context.job, context.world, context.phases
    with phases("data"):
        train = context.training_data("train")
        validation = ValidationData(
            context.open("val"),
            world,
            kind=context.model.input,
            batch_size=context.batch_size,
            workers=job.loader_workers,
        )
    score = [metric.score for metric in context.metrics if metric.score is not None]
    peak = ResidentPeak()
    if world.on_cuda:
        torch.cuda.reset_peak_memory_stats()
    with phases("build"):
        built = context.build()
        counts = _parameter_counts(built)
    with phases("shard"):
        trainee = context.shard(context.workload(built))
    missing = max(0, job.warmup_steps + job.measured_steps - job.epochs * train.steps_per_epoch)
    schedule = context.schedule(trainee.optimizer, len(train.dataset))  # type: ignore[arg-type]
    past = nothing(job)
    keeper = Keeper(job=job, world=world, trainee=trainee, schedule=schedule)
    if job.begin_from is not None:
        with phases("take up"):
            train.epoch(0)  # what its loader draws for its processes, it draws before the generators are set
            past = keeper.take_up(job.begin_from)
    loop = TrainingLoop(trainee, device=world.device, progress=context.progress, schedule=schedule)
    epochs = list(past.epochs)
    # What was kept of an epoch is its state before it was evaluated.
    for epoch in range(max(0, len(epochs) - 1), job.epochs):
        if epoch == len(epochs):
            rate = float(trainee.optimizer.param_groups[0]["lr"])
            with phases("train"):
                began = time.monotonic()
                loop.stretch(train.epoch(epoch), steps=train.steps_per_epoch, epoch=epoch + 1, epochs=job.epochs)
                seconds = time.monotonic() - began
            epochs.append(EpochReport(seconds=seconds, steps=train.steps_per_epoch, learning_rate=rate))
            if job.checkpoints is not None:
                with phases("keep"):
                    keeper.keep(with_steps(past, loop, epochs, _memory(peak, world)))
        with phases("evaluate"):
            scores = evaluate(trainee.module, validation, world, kind=context.model.input, score=score)
        epochs[epoch] = replace(epochs[epoch], scores=scores)
        if job.checkpoints is not None and world.rank == 0:
            # All ranks have kept this epoch, for all have told what they predict.
            best = checkpoints.best_epoch(epochs, context.metrics[0])
            checkpoints.forget(job.checkpoints, but=(best, epoch + 1))
    with phases("train"):
        if missing:
            loop.stretch(train.endless(job.epochs), steps=missing)
    known = with_steps(past, loop, epochs, _memory(peak, world))
    return {
        "step_s": known.step_s,
        "data_wait_s": known.data_wait_s,
        "loss": known.loss,
        "warmup_steps": unmeasured(known, job.warmup_steps),
        "epochs": known.epochs,
        "memory": known.memory,
        "weights": built.weights,
        "train_images": len(train.dataset),  # type: ignore[arg-type]
        "val_images": len(validation.dataset),  # type: ignore[arg-type]
        **counts,
    }


def _memory(peak: ResidentPeak, world: World) -> Memory:
    return Memory(
        peak_allocated_bytes=torch.cuda.max_memory_allocated() if world.on_cuda else None,
        peak_reserved_bytes=torch.cuda.max_memory_reserved() if world.on_cuda else None,
        peak_resident_bytes=None if world.on_cuda else peak.peak_bytes(),
    )


def warm_start(context: Context) -> dict[str, Any]:
    """Train on the pretrain split and write the plain module's weights, all or nothing."""
    job = context.job
    if job.weights is None:
        raise StoreError("a warm start needs a file to write its weights to")
    with context.phases("data"):
        train = context.training_data("pretrain")
    with context.phases("build"):
        built = context.build()
    with context.phases("shard"):
        trainee = context.shard(context.workload(built))
    loop = TrainingLoop(trainee, device=context.world.device, progress=context.progress)
    with context.phases("train"):
        for epoch in range(job.epochs):
            loop.stretch(train.epoch(epoch), steps=train.steps_per_epoch, epoch=epoch + 1, epochs=job.epochs)
        average_buffers(trainee.module, context.world)
        state = trainee.full_state()
    if context.world.rank == 0:
        try:
            whole(job.weights, lambda file: torch.save(state, file))
        except (OSError, RuntimeError) as error:
            raise StoreError(
                f"warm start {job.weights} cannot be written: {error}; free or change the cache"
            ) from error
    return {"loss": tuple(loop.losses())}


def prepare_data(context: Context) -> dict[str, Any]:
    """Make and verify the dataset's files."""
    with context.phases("data"):
        context.dataset.prepare(context.job.data.spec)
    return {}


def _parameter_counts(built: BuiltModel) -> dict[str, int]:
    parameters = list(built.module.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
