"""A small model, and strategies that go wrong on rank 1 in every way a rank can: given as `--plugins`."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from functools import partial

from harness.plugins import BuiltModel, InputKind, Model, ModelSpec, Strategy
from harness.strategies.data_parallel import DDP


def _build(spec: ModelSpec) -> BuiltModel:
    import torch
    from torch import nn

    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(spec.classes))
    module(torch.zeros(2, 3, spec.image_size, spec.image_size))
    return BuiltModel(module=module, blocks=(nn.Conv2d,), weights="random initialisation")


TINY_MODEL = Model(name="tiny_net", input=InputKind.IMAGES, build=_build)


def _broken(fault, workload, world):
    trainee = DDP.shard(workload, world)
    if world.rank != world.size - 1:
        return trainee
    sound = trainee.step

    def step(batch):
        fault()
        return sound(batch)

    return replace(trainee, step=step)


def _raise():
    raise RuntimeError("planted: this rank raises")


def _kill():
    os.kill(os.getpid(), signal.SIGKILL)


def _report_nothing():
    from harness.worker import rank

    rank.write_report = lambda report, path: None


_FAULTS = {
    "raises": _raise,
    "exits": partial(os._exit, 7),
    "killed": _kill,
    "hangs": partial(time.sleep, 3600),
    "silent": _report_nothing,
}
BROKEN = tuple(
    Strategy(name=name, shard=partial(_broken, fault), devices=frozenset({"cpu", "cuda"}))
    for name, fault in _FAULTS.items()
)
UNIMPORTABLE = Strategy(name="unimportable", shard=DDP.shard, requires=("plugins_that_fail",))


def _leaky(workload, world):
    trainee = DDP.shard(workload, world)
    sound, hoard = trainee.step, []

    def step(batch):
        import torch

        hoard.append(torch.zeros(5000))
        return sound(batch)

    return replace(trainee, step=step)


LEAKY = Strategy(name="leaky", shard=_leaky, memory=DDP.memory)
