"""Fully sharded strategies of torch: `fsdp1` (FullyShardedDataParallel) and `fsdp2` (fully_shard).

Both make one unit of every instance of the model's blocks and one of what is left, gather a unit's parameters for its
forward and again for its backward (the outermost unit stays gathered in between), and shard everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from harness.plugins import Strategy, Trainee, Workload, World
from harness.strategies._eager import State, eager_trainee

if TYPE_CHECKING:
    from torch import nn


def _fsdp1(workload: Workload, world: World) -> Trainee:
    import torch
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    module = FullyShardedDataParallel(
        workload.module,
        sharding_strategy=ShardingStrategy.FULL_SHARD,
        auto_wrap_policy=ModuleWrapPolicy(set(workload.blocks)),
        device_id=torch.device(world.device),  # not told, it refuses to work on a CPU
        use_orig_params=True,  # so that a unit may hold frozen parameters beside trained ones
    )
    return _trainee(workload, module)


def _fsdp2(workload: Workload, world: World) -> Trainee:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(torch.device(world.device).type, (world.size,))
    module = workload.module
    # A unit takes the parameters that no unit inside it has taken, so the innermost goes first.
    for block in reversed([m for m in module.modules() if isinstance(m, workload.blocks) and m is not module]):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return _trainee(workload, module)


def _trainee(workload: Workload, module: nn.Module) -> Trainee:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    optimizer = workload.optimizer.make(module.parameters())

    def full_state() -> State:
        return cast("State", get_model_state_dict(module, options=whole))

    return eager_trainee(workload, module, optimizer, full_state)


FSDP1 = Strategy(name="fsdp1", shard=_fsdp1)

FSDP2 = Strategy(name="fsdp2", shard=_fsdp2)
