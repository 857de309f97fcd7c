"""A few steps of a strategy, held to the same steps of the reference.

Whatever a model draws (a detector's samplers, dropout) comes from torch's global generator, which is seeded before each
forward with the step, the rank and the micro-batch: so all draw alike, and the model is what it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from harness.certificate import Watched, to_json
from harness.errors import StoreError
from harness.plugins import Batch
from harness.worker.loading import to_device
from harness.worker.purposes import Context
from harness.worker.training import TrainingDiverged
from harness.worker.watching import Watch, buffers_of, difference, digest, elements, state_slots

STEPS = 2
"""The second has been through momentum and a changed learning rate; each more costs a step of every case, and gives
rounding time to grow."""
_TRACED_STEP = 1
"""The first step of a library is not like the others."""


def certify(context: Context) -> dict[str, Any]:
    """Train some steps under the strategy, and return what this rank was seen to do as `extra["watched"]`."""
    job, world, case = context.job, context.world, context.case
    be_deterministic()
    if job.reference is None:
        raise StoreError("a certificate needs the file of its reference")
    with context.phases("data"):
        train = context.training_data("train")
    watch = Watch()
    calls = iter(range(10**9))
    with context.phases("build"):
        built = context.build()
    with context.phases("shard"):
        workload = context.workload(built)
        workload.loss = watch.loss(workload.loss, lambda: seed(job.seed, len(watch.samples), world.rank, next(calls)))
        trainee = context.shard(workload)
        handles = [watch.optimizer(trainee.applied)]
        if not case.compiled:
            handles += watch.modules(trainee.module)
        schedule = context.schedule(trainee.optimizer, len(train.dataset))  # type: ignore[arg-type]
    losses = []
    with context.phases("train"):
        batches = train.endless(0)
        for step in range(STEPS):
            watch.begin_step()
            calls = iter(range(10**9))
            batch = to_device(next(batches), world.device)
            with watch.collectives() if step == _TRACED_STEP else nullcontext():
                losses.append(float(trainee.step(batch)))
            if schedule is not None:
                schedule.step()
        check_losses(losses)
    with context.phases("compare"):
        for handle in handles:
            handle.remove()
        slots, types, held = state_slots(trainee.applied, watch.untouched)
        kept = elements(trainee.kept() if trainee.kept else trainee.module.parameters())
        buffers = buffers_of(trainee.module)
        state = trainee.full_state()
        reference = torch.load(job.reference, weights_only=True, mmap=True)
        theirs = reference["buffers"][world.rank]
        differences = {
            "buffers": difference(dict(enumerate_names(buffers)), theirs, reference["buffers_changed"][world.rank])
        }
        if world.rank == 0:
            own = {name: tensor for name, tensor in state.items() if name in reference["parameters"]}
            differences["parameters"] = difference(own, reference["parameters"], reference["changed"])
        record = Watched(
            losses=tuple(losses),
            loss_gradients=tuple(watch.loss_gradients),
            samples=tuple(watch.samples),
            targets=tuple(watch.targets),
            gradient_squares=tuple(watch.squares),
            groups=watch.group_records(),
            slots=slots,
            live=tuple(sorted(watch.live)),
            compute=tuple(sorted(watch.compute)),
            master=tuple(sorted(watch.master)),
            gradient=tuple(sorted(watch.gradient)),
            reduction=tuple(sorted(watch.reduction)),
            state=tuple(sorted(types)),
            optimizer=type(trainee.applied).__name__,
            held_parameters=kept,
            held_state=held,
            buffers=sum(map(digest, buffers)),
            differences=differences,
            collectives=watch.collective_records(),
        )
    return {"extra": {"watched": to_json(record)}}


def micro_batches(batch: Batch, count: int) -> Iterator[Batch]:
    """Yield a batch in `count` consecutive parts of one size."""
    inputs, targets = batch
    size = len(inputs) // count
    for start in range(0, size * count, size):
        yield inputs[start : start + size], targets[start : start + size]


def seed(base: int, step: int, rank: int, micro_batch: int) -> None:
    """Seed what a model draws in one forward."""
    torch.manual_seed(((base * 1009 + step) * 1009 + rank) * 1009 + micro_batch)


def enumerate_names(tensors: Sequence[torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield buffers with a name each: libraries prefix names, but keep the order."""
    return ((f"buffer {number}", tensor) for number, tensor in enumerate(tensors))


def check_losses(losses: Sequence[float]) -> None:
    """Raise TrainingDiverged if a loss is no number."""
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss became {loss} at step {step + 1}; lower the learning rate", step=step + 1)


def be_deterministic() -> None:
    """Choose deterministic kernels and full FP32 for the rest of this process."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
