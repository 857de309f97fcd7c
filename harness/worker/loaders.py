"""This suite's loader beside torchvision's own for the same files, in the ranks of a case, with nothing trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler

from harness.errors import CannotRun
from harness.plugins import InputKind
from harness.worker.loading import collate, to_device
from harness.worker.process import die_with_parent
from harness.worker.purposes import Context

_ROUNDS = 8
_ROUND_S = 0.2
"""Aimed at, of each loader."""


def loaders(context: Context) -> dict[str, Any]:
    """Return `ours` and `theirs`, images per second of this rank in each round, in `extra`.

    The loaders take turns, and in each turn all ranks load at once. The batches that a loader's processes had ready
    when its turn came are not counted.
    """
    if context.dataset.reference is None:
        raise CannotRun(f"torchvision has no loader of {context.dataset.name} to be held to")
    with context.phases("data"):
        batches = {"ours": context.training_data("train").endless(0), "theirs": _reference(context)}
        rates: dict[str, list[float]] = {name: [] for name in batches}
        counts = {name: _calibrated(_one(context, source), context.world.device) for name, source in batches.items()}
        for turn in range(_ROUNDS):
            for name in sorted(batches, reverse=turn % 2 == 1):
                load = _one(context, batches[name])
                for _ in range(2 * context.job.loader_workers):
                    load()
                dist.barrier()
                seconds = _seconds(load, counts[name])
                rates[name].append(counts[name] * context.batch_size / seconds)
    return {"extra": rates}


def _one(context: Context, source: Iterator[Any]) -> Callable[[], object]:
    return lambda: to_device(next(source), context.world.device)


def _seconds(load: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        load()
    return time.perf_counter() - began


def _calibrated(load: Callable[[], object], device: str) -> int:
    """Return how many batches take a round, after those that start the loader's processes; the same on every rank."""
    _seconds(load, 10)
    count = max(10, round(_ROUND_S / max(_seconds(load, 10) / 10, 1e-6)))
    told = torch.tensor(count, device=device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return int(told)


def _reference(context: Context) -> Iterator[Any]:
    """Yield batches as torchvision's reference scripts load them, with as many processes as this suite's."""
    world, workers = context.world, context.job.loader_workers
    assert context.dataset.reference is not None
    dataset = context.dataset.reference(context.job.data.spec)
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, num_replicas=world.size, rank=world.rank)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=context.batch_size,
        sampler=sampler,
        collate_fn=None if context.model.input is InputKind.IMAGES else collate(context.model.input),
        drop_last=True,
        num_workers=workers,
        pin_memory=world.on_cuda,
        persistent_workers=workers > 0,
        worker_init_fn=die_with_parent,
    )
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from loader
        epoch += 1
