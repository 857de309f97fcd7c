"""The traced run of a case: steps under torch's profiler, after the same steps without it, to show what it adds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch.profiler import ProfilerActivity, record_function

from harness.plugins import Batch, Trainee
from harness.records import kineto
from harness.records.trace import RankTrace, TracedStep
from harness.worker.clocks import clock_for
from harness.worker.loading import to_device
from harness.worker.profiling import profiled
from harness.worker.purposes import Context

_PLAIN_STEPS = 5
_TRACED_STEPS = 3
_RECORD: TypeAdapter[RankTrace] = TypeAdapter(RankTrace)


def trace(context: Context) -> dict[str, Any]:
    """Return the `RankTrace` of a case's steps, as JSON values, in `extra`."""
    job, world, phases = context.job, context.world, context.phases
    with phases("data"):
        batches = context.training_data("train").endless(0)
    with phases("build"):
        built = context.build()
    with phases("shard"):
        trainee = context.shard(context.workload(built))
    with phases("train"):
        _steps(trainee, batches, world.device, job.warmup_steps)
        plain_s = _steps(trainee, batches, world.device, _PLAIN_STEPS)
        steps = traced(trainee, batches, world.device, count=_TRACED_STEPS)
        unsynchronised_s: list[float] = []
        if trainee.unsynchronised is not None:
            # Last: the ranks' weights part here.
            with trainee.unsynchronised():
                unsynchronised_s = _steps(trainee, batches, world.device, _PLAIN_STEPS)
    record = RankTrace(
        device=world.device,
        steps=steps,
        plain_s=tuple(plain_s),
        grouped=context.strategy.hierarchy is not None,
        unsynchronised_s=tuple(unsynchronised_s),
    )
    return {"extra": {"trace": _RECORD.dump_python(record, mode="json")}}


def traced(trainee: Trainee, batches: Iterator[Batch], device: str, *, count: int) -> tuple[TracedStep, ...]:
    """Return what the profiler sees of `count` steps; every rank calls it at once."""
    on_cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profiled(activities):
        _steps(trainee, batches, device, 1)  # the profiler's own warm-up: its first events are late
    with profiled(activities) as profiler:
        dist.barrier()  # ranks leave the profiler's start one after another, which is no rank's doing
        # Clocks of several machines began at other times: those of all ranks are told from here.
        zero_s = time.monotonic() if "SHARDBENCH_ASKED_S" in os.environ else 0.0
        marks = [_marked(trainee, batches, device) for _ in range(count)]
        if on_cuda:
            torch.cuda.synchronize()
    began_s, queued_s = zip(*marks, strict=True)
    return tuple(kineto.steps(kineto.written(profiler), marked_s=[s - zero_s for s in began_s], queued_s=queued_s))


def _steps(trainee: Trainee, batches: Iterator[Batch], device: str, count: int) -> list[float]:
    clock = clock_for(device)
    clock.start()
    for _ in range(count):
        trainee.step(to_device(next(batches), device))
        clock.mark()
    return clock.step_s()


def _marked(trainee: Trainee, batches: Iterator[Batch], device: str) -> tuple[float, float | None]:
    """Make one step under marks; return when it began and how long this thread waited for a core."""
    queued_before = _queued_s()
    began = time.monotonic()
    with record_function(kineto.DATA):
        batch = to_device(next(batches), device)
    with record_function(kineto.UPDATE):
        trainee.step(batch)
    queued = _queued_s()
    return began, None if queued is None or queued_before is None else queued - queued_before


def _queued_s() -> float | None:
    """Return how long this thread was ready and had no core so far, seconds (Linux, sched-stats: the second field)."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9
    except (OSError, IndexError, ValueError):
        return None
