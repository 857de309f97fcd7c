"""One process of the time layer: the case's steps, and frozen references between them, in rounds of random order.

A fixed order favours a place in it by more than what is sought, so each round has its own, equal on all ranks. With
several ranks every kind of work begins behind a barrier, so that none waits in it for a rank that still does another.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from harness.records.samples import RankSamples
from harness.worker import frozen
from harness.worker.clocks import clock_for
from harness.worker.purposes import Context
from harness.worker.training import TrainingLoop

_STEPS = 1
"""Of the case, and of the plain loop, in a round: the closer they follow each other, the more they vary together."""
_ROUNDS = range(4, 61)
"""At least, and below: the seconds that were asked for decide between them."""
_SETTLING = range(3, 12)
"""Warm-up rounds, at least and below."""
_SETTLED = 0.95
"""The case has settled when two rounds in a row take longer than this share of the fastest before them."""
_RANK: TypeAdapter[RankSamples] = TypeAdapter(RankSamples)


def replicate(context: Context) -> dict[str, Any]:
    """Return in `extra` the rank's `RankSamples`, the rounds it took to settle, and digests of the references."""
    job, world = context.job, context.world
    with context.phases("data"):
        train = context.training_data("train")
    with context.phases("build"):
        plain = frozen.same_work(context)
        built = context.build()
        elements = sum(p.numel() for p in built.module.parameters())
    with context.phases("shard"):
        trainee = context.shard(context.workload(built))
    schedule = context.schedule(trainee.optimizer, len(train.dataset))  # type: ignore[arg-type]
    loop = TrainingLoop(trainee, device=world.device, progress=context.progress, schedule=schedule)
    loop.clock.start()
    batches = train.endless(0)
    works: dict[str, Callable[[], object]] = {
        "case_us": lambda: loop.one(batches),
        "plain_us": plain,
        "convolution_us": frozen.convolution(world.device),
        "product_us": frozen.product(world.device),
    }
    if world.size > 1:
        works["collective_us"] = frozen.collective(elements, world.device)
    rounds = Rounds(works, world.device, seed=job.seed)
    with context.phases("warm-up"):
        settled_after, round_s = _settle(rounds, world.device)
    count = min(max(math.ceil(job.sampled_s / round_s), _ROUNDS.start), _ROUNDS.stop - 1)
    with context.phases("train"):
        for number in range(count):
            rounds.one()
            context.progress.show(1, 1, number + 1, count)
        loop.check()
    measured = {name: tuple(round(s * 1e6) for s in seconds[-count:]) for name, seconds in rounds.seconds().items()}
    samples = RankSamples(**({"collective_us": ()} | measured))
    return {
        "extra": {
            "samples": _RANK.dump_python(samples, mode="json"),
            "settled_after": settled_after,
            "steps": _STEPS,
            "references": frozen.digests(context),
            "planted": context.planted,
        }
    }


class Rounds:
    """Rounds of several kinds of work, each kind timed on the device's own clock."""

    def __init__(self, works: dict[str, Callable[[], object]], device: str, *, seed: int) -> None:
        self._works = works
        self._clocks = {name: clock_for(device) for name in works}
        self._order = random.Random(seed)
        self._together = dist.get_world_size() > 1

    def one(self) -> None:
        """Make a round."""
        for name in self._order.sample(list(self._works), k=len(self._works)):
            if self._together:
                dist.barrier()
            work, clock = self._works[name], self._clocks[name]
            clock.start()
            for _ in range(_STEPS):
                work()
            clock.mark()

    def seconds(self) -> dict[str, list[float]]:
        """Return the seconds of every round so far, of each kind of work; waits for the device."""
        return {name: clock.step_s() for name, clock in self._clocks.items()}


def _settle(rounds: Rounds, device: str) -> tuple[int | None, float]:
    """Make rounds until the case's time stops falling; return how many that took, or None, and the last one's seconds.

    The slowest rank's times decide, so that all ranks decide alike.
    """
    case_s: list[float] = []
    for number in range(1, _SETTLING.stop):
        began = time.perf_counter()
        rounds.one()
        own = rounds.seconds()["case_us"][-1]
        slowest = torch.tensor([own, time.perf_counter() - began], dtype=torch.float64, device=device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        case_s.append(slowest[0].item())
        if has_settled(case_s):
            return number, slowest[1].item()
    return None, slowest[1].item()


def has_settled(case_s: Sequence[float]) -> bool:
    """Return whether the last two rounds were not faster than those before, but for a twentieth."""
    return len(case_s) >= _SETTLING.start and min(case_s[-2:]) > _SETTLED * min(case_s[:-2])
