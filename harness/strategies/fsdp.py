"""Fully sharded strategies of torch: `fsdp1` (FullyShardedDataParallel), `fsdp2` (fully_shard) and, over nodes, `hsdp`.

`hsdp` is `fsdp2` over a mesh of two dimensions: it shards among the GPUs of a node, and every node has all. So
parameters are gathered over the links in a node alone, and between nodes each GPU all-reduces its share of the
gradients with those of the same place.

All make one unit of every instance of the model's blocks and one of what is left, gather a unit's parameters for its
forward and again for its backward (the outermost unit stays gathered in between), and shard everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from harness.plugins import Footprint, Hierarchy, Shape, Share, Strategy, Traffic, Trainee, Unit, Workload, World
from harness.strategies._eager import State, eager_trainee
from harness.strategies._sharding import FP32, flat_size, overlap, sharded_traffic, spans, state_bytes

if TYPE_CHECKING:
    from torch import nn


def _fsdp1(workload: Workload, world: World) -> Trainee:
    import torch
    from torch.distributed.fsdp import CPUOffload, FullyShardedDataParallel, ShardingStrategy
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    module = FullyShardedDataParallel(
        workload.module,
        sharding_strategy=ShardingStrategy.FULL_SHARD,
        auto_wrap_policy=ModuleWrapPolicy(set(workload.blocks)),
        device_id=torch.device(world.device),  # not told, it refuses to work on a CPU
        use_orig_params=True,  # so that a unit may hold frozen parameters beside trained ones
        cpu_offload=CPUOffload(offload_params=workload.offload),
    )
    return _trainee(
        workload, world, module, no_sync=module.no_sync, clip=module.clip_grad_norm_, scaler=ShardedGradScaler
    )


def _fsdp2(workload: Workload, world: World) -> Trainee:
    return _fully_shard(workload, world, (world.size,))


def _hsdp(workload: Workload, world: World) -> Trainee:
    per_node = world.ranks_per_node or world.size
    # The first dimension repeats, the second shards.
    return _fully_shard(workload, world, (world.size // per_node, per_node))


def _fully_shard(workload: Workload, world: World, shape: tuple[int, ...]) -> Trainee:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    names = ("replicate", "shard")[-len(shape) :]
    mesh = init_device_mesh(torch.device(world.device).type, shape, mesh_dim_names=names)
    offload = CPUOffloadPolicy(pin_memory=world.on_cuda) if workload.offload else OffloadPolicy()
    module = workload.module
    # A unit takes the parameters that no unit inside it has taken, so the innermost goes first.
    for block in reversed([m for m in module.modules() if isinstance(m, workload.blocks) and m is not module]):
        fully_shard(block, mesh=mesh, offload_policy=offload)
    sharded = fully_shard(module, mesh=mesh, offload_policy=offload)

    @contextmanager
    def no_sync() -> Iterator[None]:
        sharded.set_requires_gradient_sync(False)
        yield
        sharded.set_requires_gradient_sync(True)

    return _trainee(workload, world, module, no_sync=no_sync)


def _trainee(workload: Workload, world: World, module: nn.Module, **library: Any) -> Trainee:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    # Asked to offload what lies on the CPU already, FSDP1 of torch 2.11 frees it before it is copied.
    whole = StateDictOptions(full_state_dict=True, cpu_offload=world.on_cuda)
    optimizer = workload.optimizer.make(module.parameters())

    def full_state() -> State:
        return cast("State", get_model_state_dict(module, options=whole))

    return eager_trainee(workload, world, module, optimizer, full_state, **library)


def _fsdp1_traffic(units: Sequence[Unit], ranks: int) -> Sequence[Traffic]:
    # With use_orig_params every parameter begins at a multiple of 16 bytes.
    return sharded_traffic([flat_size(unit, ranks, aligned_to=4) for unit in units], ranks)


def _fsdp2_traffic(units: Sequence[Unit], ranks: int) -> Sequence[Traffic]:
    return sharded_traffic([ranks * sum(_padded(shape, ranks) for shape in unit) for unit in units], ranks)


def _hsdp_traffic(units: Sequence[Unit], ranks: int, per_node: int) -> Sequence[Traffic]:
    """As `fsdp2` on a node, and each rank's share of the gradients once among nodes."""
    gathered, reduced = _fsdp2_traffic(units, per_node)
    return [gathered, reduced, Traffic(kind="all_reduce", elements=reduced.elements // per_node, calls=reduced.calls)]


def _padded(shape: Shape, ranks: int) -> int:
    """Return the elements of a rank's part: each parameter is cut along its first dimension, into parts of one size."""
    rows, *rest = shape or (1,)
    return -(-rows // ranks) * math.prod(rest)


def _fsdp1_memory(share: Share) -> Footprint:
    """Of each unit a rank's n-th, cut without regard to where a parameter ends; padding has no optimizer state."""
    parts = [flat_size(unit, share.ranks, aligned_to=4) // share.ranks for unit in share.units]
    held = [
        overlap(span, (share.rank * part, (share.rank + 1) * part))
        for unit, part in zip(share.units, parts, strict=True)
        for span in spans(unit, aligned_to=4)
    ]
    return Footprint(
        parameters=FP32 * sum(parts),
        gradients=FP32 * sum(parts),
        optimizer=state_bytes(share, sum(held), len([elements for elements in held if elements])),
    )


def _fsdp2_memory(share: Share) -> Footprint:
    """Of each parameter as many rows as of any rank; rows that this one lacks are padding without optimizer state."""

    def own(shape: Shape) -> int:
        rows, *rest = shape or (1,)
        part = -(-rows // share.ranks)
        return overlap((0, rows), (share.rank * part, (share.rank + 1) * part)) * math.prod(rest)

    parts = sum(_padded(shape, share.ranks) for shape in share.shapes)
    return Footprint(
        parameters=FP32 * parts,
        gradients=FP32 * parts,
        optimizer=state_bytes(share, sum(map(own, share.shapes)), len(share.shapes)),
    )


def _hsdp_memory(share: Share) -> Footprint:
    """As `fsdp2` on a node: the others have the same."""
    per_node = share.ranks_per_node or share.ranks
    return _fsdp2_memory(replace(share, ranks=per_node, rank=share.rank % per_node))


_FULLY_SHARD_REFUSES = {
    "chlast": "fully_shard takes contiguous parameters only; choose ddp",
    "fused": "torch has no fused SGD for the distributed tensors that fully_shard makes of parameters",
}

FSDP1 = Strategy(
    name="fsdp1",
    shard=_fsdp1,
    shards=frozenset({"parameters", "optimizer"}),
    refuses={
        "chlast": "on one GPU FullyShardedDataParallel gives the gradient of such a weight in another order than the "
        "weight; choose ddp"
    },
    traffic=_fsdp1_traffic,
    memory=_fsdp1_memory,
    refuses_on_cpu={"offload": "FullyShardedDataParallel pins the host memory it offloads to, which needs CUDA"},
)

FSDP2 = Strategy(
    name="fsdp2",
    shard=_fsdp2,
    shards=frozenset({"parameters", "optimizer"}),
    refuses=_FULLY_SHARD_REFUSES,
    traffic=_fsdp2_traffic,
    memory=_fsdp2_memory,
)

HSDP = Strategy(
    name="hsdp",
    shard=_hsdp,
    refuses=_FULLY_SHARD_REFUSES,
    memory=_hsdp_memory,
    hierarchy=Hierarchy(held=lambda ranks, per_node: (1 / per_node, 1 / per_node), traffic=_hsdp_traffic),
)
