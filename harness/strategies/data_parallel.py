"""Replicating strategies of torch: `dp` from one process and `ddp` from one process per GPU.

Buffers, alike for every strategy of this suite: no strategy synchronises them while training. Each rank keeps the
BatchNorm statistics of its own batches, and the harness averages them over the ranks before an evaluation. `dp` has one
rank, whose statistics are those of its first GPU's share of the batch: the other replicas' are lost with each step.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence

from harness.plugins import Footprint, InputKind, Processes, Share, Strategy, Traffic, Trainee, Unit, Workload, World
from harness.strategies._eager import eager_trainee, plain_state
from harness.strategies._sharding import FP32, whole_memory

_WHOLE = "every GPU updates the whole model where it lies; fsdp1, fsdp2 and zero1 to zero3 can offload"


def _dp(workload: Workload, world: World) -> Trainee:
    from torch import nn

    module = nn.DataParallel(workload.module, device_ids=list(range(world.devices_per_process)))
    optimizer = workload.optimizer.make(module.parameters())
    return eager_trainee(workload, world, module, optimizer, lambda: plain_state(workload.module))


def _ddp(workload: Workload, world: World) -> Trainee:
    import torch
    from torch.nn.parallel import DistributedDataParallel

    with warnings.catch_warnings():
        # torch 2.13 renamed broadcast_buffers and warns of it; 2.11 does not know the new name yet.
        warnings.simplefilter("ignore", FutureWarning)
        module = DistributedDataParallel(
            workload.module,
            device_ids=[torch.device(world.device)] if world.on_cuda else None,
            broadcast_buffers=False,
        )
    optimizer = workload.optimizer.make(module.parameters())
    trainee = eager_trainee(
        workload, world, module, optimizer, lambda: plain_state(workload.module), no_sync=module.no_sync
    )
    trainee.unsynchronised = module.no_sync
    return trainee


def _ddp_traffic(units: Sequence[Unit], ranks: int) -> Sequence[Traffic]:
    """Every gradient once (Li et al., PyTorch Distributed, arXiv 2006.15704, section 3.2)."""
    return [Traffic(kind="all_reduce", elements=sum(map(math.prod, itertools.chain(*units))))]


def _ddp_memory(share: Share) -> Footprint:
    """Everything, and all gradients a second time: in the buckets that are reduced, on a single rank too."""
    return whole_memory(share, rest=FP32 * sum(map(math.prod, share.shapes)))


DP = Strategy(
    name="dp",
    shard=_dp,
    processes=Processes.ONE,
    accepts=frozenset({InputKind.IMAGES}),
    cannot_split="nn.DataParallel cuts every tensor along its first dimension, which of a list of detection images "
    "is the colour channels",
    devices=frozenset({"cuda"}),
    needs_device="nn.DataParallel replicates over CUDA GPUs; on a machine without CUDA there is nothing to "
    "replicate over",
    refuses={"offload": _WHOLE, "pernode": "one process drives GPUs of its own node alone; choose ddp"},
    # Of the first GPU: replicas on the others live within a step.
    memory=whole_memory,
)


DDP = Strategy(name="ddp", shard=_ddp, refuses={"offload": _WHOLE}, traffic=_ddp_traffic, memory=_ddp_memory)
