"""Whether a batch fits the device, and how fast it is: a few steps on one batch, whatever the dataset's size."""

from __future__ import annotations

from typing import Any

from harness.worker.clocks import clock_for
from harness.worker.loading import collate, to_device
from harness.worker.purposes import Context

_STEPS = 3
"""The first makes the optimizer's state, so that the second holds as much as any later one."""


def fit(context: Context) -> dict[str, Any]:
    """Return the seconds of the steps after the first; raises what the allocator raises if they do not fit."""
    with context.phases("data"):
        samples = context.open("train")
        batch = collate(context.model.input)([samples[i % len(samples)] for i in range(context.batch_size)])
    with context.phases("build"):
        built = context.build()
    with context.phases("shard"):
        trainee = context.shard(context.workload(built))
    device = context.world.device
    clock = clock_for(device)
    with context.phases("train"):
        clock.start()
        for _ in range(_STEPS):
            trainee.step(to_device(batch, device))
            clock.mark()
        step_s = clock.step_s()
    return {"extra": {"step_s": step_s[1:]}}
