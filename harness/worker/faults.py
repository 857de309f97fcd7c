"""The faults of `harness.running.plant`, put into a case where its strategy takes it over.

Nothing but the case changes: the references that it is timed beside, and those of certificates, never pass here. What
slows is fixed work, sized once by the case's first steps: how much is to be found must not follow the machine's moods.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from harness.errors import CannotRun
from harness.plugins import Batch, Trainee, Workload, World
from harness.running.plant import BREAKS, parse
from harness.worker import breaking, evaluation

TIMED_STEPS = 3
"""That a slowdown is sized by, and that are without it: the faster of the last two counts, since the first is unlike
the others. A `replicate` settles for as many at least."""
_ROWS = {"cpu": 128, "cuda": 1024}
"""Of the products that are burnt: one is a small part of the shortest step."""
_TRIALS, _TRIED = 5, 20
"""Measurements of what a product takes, and products in each."""
_LEAKED = 5000
"""Elements a step."""
_TORCH_RATE = 1e-3
"""The learning rate of torch's SGD and AdamW where none is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a fault is put."""

    size: float
    trainee: Trainee
    world: World
    elements: int
    """Of the model's parameters, on all ranks together."""
    told: dict[str, float]


def shard(
    plant: str,
    strategy: Callable[[Workload, World], Trainee],
    workload: Workload,
    world: World,
    told: dict[str, float],
    folder: Path = Path(),
) -> Trainee:
    """Return what a strategy makes of a workload, with a fault in it.

    Args:
        plant: the fault, as `harness.running.plant` reads it.
        strategy: its `shard`.
        workload: what it is to shard; changed where the fault lies there.
        world: this rank's place.
        told: takes, of a fault that slows, what it came to: `step_s`, the time of a step it was sized by; `share`, what
            it adds to that; and `products` or `sleep_s`. Empty until it has been sized.
        folder: the job's.

    Raises:
        HarnessError: there is no such fault.
        CannotRun: the strategy cannot have it.
    """
    fault = parse(plant)
    if fault.name in BREAKS:
        return breaking.plant(fault.name, strategy, workload, world, folder)
    elements = sum(p.numel() for p in workload.module.parameters())
    if fault.name == "wrong_lr":
        arguments = dict(workload.optimizer.arguments)
        arguments["lr"] = arguments.get("lr", _TORCH_RATE) * (1 + fault.size)
        workload.optimizer = replace(workload.optimizer, arguments=arguments)
    trainee = strategy(workload, world)
    if fault.name in _FAULTS:
        _FAULTS[fault.name](_Place(size=fault.size, trainee=trainee, world=world, elements=elements, told=told))
    return trainee


def _before_step(trainee: Trainee, work: Callable[[], object]) -> None:
    sound = trainee.step

    def step(batch: Batch) -> torch.Tensor:
        work()
        return sound(batch)

    trainee.step = step


def _slow(place: _Place, work_for: Callable[[float], Callable[[], object]]) -> None:
    """Time the first steps, then do before every other what `work_for` returns, given the seconds of a step."""
    sound = place.trainee.step
    seconds: list[float] = []
    work: Callable[[], object] | None = None

    def step(batch: Batch) -> torch.Tensor:
        nonlocal work
        if work is not None:
            work()
            return sound(batch)
        began = _now(place.world)
        loss = sound(batch)
        seconds.append(_now(place.world) - began)
        if len(seconds) == TIMED_STEPS:
            place.told["step_s"] = step_s = _slowest(min(seconds[1:]), place.world)
            work = work_for(step_s)
        return loss

    place.trainee.step = step


def _burn(place: _Place) -> None:
    device = place.world.device
    rows = _ROWS[device.partition(":")[0]]

    def products(count: int) -> None:
        # Made anew, so that nothing is kept from step to step that would tell as memory.
        factor = torch.ones(rows, rows, device=device)
        out = torch.empty_like(factor)
        for _ in range(count):
            torch.mm(factor, factor, out=out)

    def product_s() -> float:
        began = _now(place.world)
        products(_TRIED)
        return (_now(place.world) - began) / _TRIED

    def work_for(step_s: float) -> Callable[[], object]:
        one_s = _slowest(min(product_s() for _ in range(_TRIALS)), place.world)
        count = max(1, round(place.size * step_s / one_s))
        place.told.update(products=count, share=count * one_s / step_s)
        return lambda: products(count)

    _slow(place, work_for)


def _sleep(place: _Place) -> None:
    def work_for(step_s: float) -> Callable[[], object]:
        seconds = place.size * step_s
        place.told.update(sleep_s=seconds, share=place.size)
        return lambda: time.sleep(seconds)

    _slow(place, work_for)


def _all_reduce(place: _Place) -> None:
    def again() -> None:
        for _ in range(int(place.size)):
            dist.all_reduce(torch.zeros(place.elements, device=place.world.device))

    _before_step(place.trainee, again)


def _no_overlap(place: _Place) -> None:
    """Hold DDP's buckets back until the last is there, and reduce them as one: the same sums in the same type."""
    module, device = place.trainee.module, torch.device(place.world.device)
    if not isinstance(module, DistributedDataParallel):
        raise CannotRun("the fault no_overlap is known for ddp alone: choose a case of ddp, or another fault")
    held: list[tuple[torch.Tensor, torch.futures.Future[torch.Tensor]]] = []

    # Without annotations: torch compares them with types, and here they are strings.
    def hook(state, bucket):  # type: ignore[no-untyped-def]
        future = torch.futures.Future[torch.Tensor](devices=[device] if place.world.on_cuda else None)
        held.append((bucket.buffer(), future))
        if bucket.is_last():
            whole = torch.cat([buffer for buffer, _ in held]).div_(place.world.size)
            dist.all_reduce(whole)
            parts = torch.split(whole, [len(buffer) for buffer, _ in held])
            for (buffer, done), part in zip(held, parts, strict=True):
                done.set_result(buffer.copy_(part))
            held.clear()
        return future

    module.register_comm_hook(None, hook)


def _optimizer_copy(place: _Place) -> None:
    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                # Not before the first step: AdamW takes a parameter with any state for one it knows.
                if parameter.grad is not None and "planted" not in optimizer.state[parameter]:
                    optimizer.state[parameter]["planted"] = torch.zeros_like(parameter)

    place.trainee.applied.register_step_post_hook(after)


def _leak(place: _Place) -> None:
    kept: list[torch.Tensor] = []
    _before_step(place.trainee, lambda: kept.append(torch.zeros(_LEAKED, device=place.world.device)))


def _double_image(place: _Place) -> None:
    _score_other(lambda predictions: [*predictions, predictions[0]])


def _lost_image(place: _Place) -> None:
    _score_other(lambda predictions: predictions[1:])


def _score_other(change: Callable[[list[Any]], list[Any]]) -> None:
    """Change what rank 0 scores, for the rest of this process, which lives for one job."""
    sound = evaluation._gather

    def gather(predictions: list[Any], world: World) -> list[Any] | None:
        gathered = sound(predictions, world)
        return None if gathered is None else change(gathered)

    evaluation._gather = gather


_FAULTS: dict[str, Callable[[_Place], None]] = {
    "burn": _burn,
    "sleep": _sleep,
    "all_reduce": _all_reduce,
    "no_overlap": _no_overlap,
    "optimizer_copy": _optimizer_copy,
    "double_image": _double_image,
    "lost_image": _lost_image,
    "leak": _leak,
}
"""But `wrong_lr`, which lies in the workload."""


def _slowest(seconds: float, world: World) -> float:
    """Return the most of any rank, the same on all: all are to do the same work."""
    told = torch.tensor(seconds, dtype=torch.float64, device=world.device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return told.item()


def _now(world: World) -> float:
    """Return the time in seconds, once the device has done what it was given."""
    if world.on_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
