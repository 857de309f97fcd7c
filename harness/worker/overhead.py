"""What the harness adds to a step: its own step and a bare hand-written loop's, interleaved on one sharded module.

Both update the same module, so that both find the same memory layout; each has an optimizer and batches of its own. The
order within a pair is random, equal on every rank, because a fixed order favours a place by more than what is sought.
"""

from __future__ import annotations

import random
import time
from typing import Any

import torch
from torch.nn import functional as F

from harness.worker.purposes import Context
from harness.worker.training import TrainingLoop


def overhead(context: Context) -> dict[str, Any]:
    """Return `harness_s` and `bare_s`: seconds of paired steps, of an image model trained eagerly."""
    job, world = context.job, context.world
    with context.phases("data"):
        ours = context.training_data("train").endless(0)
        theirs = context.training_data("train").endless(0)
    with context.phases("build"):
        built = context.build()
    with context.phases("shard"):
        trainee = context.shard(context.workload(built))
        module = trainee.module
        optimizer = job.optimizer.spec.make(module.parameters())
    loop = TrainingLoop(trainee, device=world.device, progress=context.progress)
    loop.clock.start()

    def harness_step(number: int) -> None:
        loop.one(ours)
        context.progress.show(1, 1, number, job.measured_steps)

    def bare_step(number: int) -> None:
        images, labels = next(theirs)
        images, labels = images.to(world.device), labels.to(world.device)
        optimizer.zero_grad()
        loss = F.cross_entropy(module(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    steps = {"harness_s": harness_step, "bare_s": bare_step}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(job.seed)
    with context.phases("train"):
        for number in range(job.warmup_steps + job.measured_steps):
            for name in order.sample(list(steps), k=2):
                began = _now(world.on_cuda)
                steps[name](number)
                if number >= job.warmup_steps:
                    seconds[name].append(_now(world.on_cuda) - began)
    return {"extra": seconds}


def _now(on_cuda: bool) -> float:
    if on_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
