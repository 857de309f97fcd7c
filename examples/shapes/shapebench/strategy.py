"""`flat`: data parallelism by hand, with all gradients reduced in one piece after the backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.plugins import Batch, Footprint, Share, Strategy, Traffic, Trainee, Unit, Workload, World

if TYPE_CHECKING:
    import torch


def _shard(workload: Workload, world: World) -> Trainee:
    import torch
    import torch.distributed as dist

    module = workload.module
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = workload.optimizer.make(parameters)

    def reduce() -> None:
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= world.size
        for parameter, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = mean.view_as(parameter).clone()

    def step(batch: Batch) -> torch.Tensor:
        optimizer.zero_grad()
        loss = workload.loss(module, batch)
        loss.backward()
        if world.size > 1:
            reduce()
        if workload.clipping is not None:
            torch.nn.utils.clip_grad_norm_(parameters, workload.clipping)
        optimizer.step()
        return loss.detach()

    def full_state() -> dict[str, torch.Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}

    return Trainee(module=module, step=step, full_state=full_state, optimizer=optimizer, applied=optimizer)


def _traffic(units: Sequence[Unit], ranks: int) -> Sequence[Traffic]:
    """Every gradient once, in one call."""
    return [Traffic(kind="all_reduce", elements=sum(math.prod(shape) for unit in units for shape in unit), calls=1)]


def _memory(share: Share) -> Footprint:
    """Everything on every rank, 4 bytes an element; the flat piece lives within a step."""
    elements = sum(math.prod(shape) for shape in share.shapes)
    counters = 4 * len(share.shapes) if share.counters else 0
    return Footprint(
        parameters=4 * elements,
        gradients=4 * elements,
        optimizer=4 * share.slots * elements + counters,
    )


FLAT = Strategy(
    name="flat",
    shard=_shard,
    refuses={
        "accum": "it reduces after every backward pass",
        "fp16": "it does not scale the loss; bf16 needs no scaling",
        "offload": "every rank updates the whole model where it lies",
    },
    # Both are held to what is measured: the first by the certificate, the second with --accounted.
    traffic=_traffic,
    memory=_memory,
)
