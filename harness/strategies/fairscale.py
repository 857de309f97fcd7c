"""FairScale's strategies: `fairscale_fsdp` (FullyShardedDataParallel) and `fairscale_sdp` (OSS and sharded DDP)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from harness.plugins import Footprint, Share, Strategy, Traffic, Trainee, Unit, Workload, World
from harness.strategies._eager import eager_trainee, plain_state
from harness.strategies._sharding import FP32, flat_size, sharded_traffic, state_bytes, whole_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import nn


def _fsdp(workload: Workload, world: World) -> Trainee:
    import torch
    from fairscale.nn.data_parallel import FullyShardedDataParallel
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    if not world.on_cuda:
        _give_null_streams()

    def wrap(unit: nn.Module, empty: bool = False) -> Any:
        mixed = len({p.requires_grad for p in unit.parameters() if not hasattr(p, "_is_sharded")}) > 1
        return FullyShardedDataParallel(
            unit,
            flatten_parameters=not mixed,
            mixed_precision=False,
            move_params_to_cpu=workload.offload and not empty,  # it would look at the first of none
            move_grads_to_cpu=workload.offload,
            # FairScale's buckets reduce-scatter a matrix, which gloo refuses; NCCL takes it.
            bucket_cap_mb=25 if world.on_cuda else 0,
            compute_device=torch.device(world.device),
            state_dict_device=torch.device("cpu"),
            state_dict_on_rank_0_only=True,
        )

    if workload.offload:
        for parameter in workload.module.parameters():
            parameter.data = parameter.data.cpu()  # it offloads only what lies there from the start
    _wrap_units(workload.module, workload.blocks, wrap)
    module = wrap(workload.module)
    if not all(parameter.requires_grad for parameter in module.params):
        # The outermost unit never frees a gathered frozen parameter, and its state_dict then fails: let it be empty.
        module = wrap(module, empty=True)
    if workload.offload:
        # The first forward would make the place of offloaded gradients, unless it is an evaluation's; outermost first.
        for unit in [unit for unit in module.modules() if isinstance(unit, FullyShardedDataParallel)]:
            unit._lazy_init()
    optimizer = workload.optimizer.make(module.parameters())
    return eager_trainee(
        workload,
        world,
        module,
        optimizer,
        module.state_dict,
        no_sync=module.no_sync,
        clip=module.clip_grad_norm_,
        scaler=ShardedGradScaler,
    )


def _wrap_units(
    parent: nn.Module,
    blocks: tuple[type[nn.Module], ...],
    wrap: Callable[[nn.Module], nn.Module],
    frozen_parent: bool = False,
) -> None:
    """Replace every block below `parent` by its wrapped self, and so the largest wholly frozen modules.

    FairScale flattens a unit's parameters into one tensor, which is either trained or frozen: frozen modules that sit
    among trained ones have to be units of their own.
    """
    for name, child in list(parent.named_children()):
        frozen = not any(parameter.requires_grad for parameter in child.parameters())
        _wrap_units(child, blocks, wrap, frozen)
        loose = any(not hasattr(parameter, "_is_sharded") for parameter in child.parameters())
        if isinstance(child, blocks) or (frozen and not frozen_parent and loose):
            setattr(parent, name, wrap(child))


def _give_null_streams() -> None:
    """Let FairScale's FSDP module see a CUDA that does nothing, since it uses streams without asking for a device."""
    import torch
    from fairscale.nn.data_parallel import fully_sharded_data_parallel

    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    cuda = SimpleNamespace(
        is_available=lambda: True,
        Stream=lambda: stream,
        stream=contextlib.nullcontext,
        current_stream=lambda: stream,
        synchronize=lambda: None,
    )
    fully_sharded_data_parallel.torch = SimpleNamespace(**{**vars(torch), "cuda": cuda})
    # Methods of tensors, so they cannot be hidden in that module alone; no CPU tensor has one that works.
    torch.Tensor.record_stream = lambda tensor, stream: None  # type: ignore[assignment, method-assign]
    torch.Tensor.cuda = torch.Tensor.pin_memory = _itself  # type: ignore[assignment, method-assign]


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _sdp(workload: Workload, world: World) -> Trainee:
    from fairscale.nn.data_parallel import ShardedDataParallel
    from fairscale.optim.oss import OSS
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    trained = [parameter for parameter in workload.module.parameters() if parameter.requires_grad]
    optimizer = OSS(trained, optim=workload.optimizer.factory, **workload.optimizer.arguments)
    module = ShardedDataParallel(
        workload.module,
        optimizer,
        broadcast_buffers=False,
        warn_on_trainable_params_changed=False,  # it takes every change between training and evaluation for one
    )
    return eager_trainee(
        workload,
        world,
        module,
        optimizer,
        full_state=lambda: plain_state(workload.module),
        # Gradients are views of its buckets: the optimizer's zero_grad would cut them off.
        zero_grad=functools.partial(module.zero_grad, set_to_none=True),
        applied=optimizer.optim,
        no_sync=module.no_sync,
        clip=optimizer.clip_grad_norm,
        scaler=ShardedGradScaler,
    )


def _fsdp_traffic(units: Sequence[Unit], ranks: int) -> Sequence[Traffic]:
    return sharded_traffic([flat_size(unit, ranks) for unit in units], ranks)


def _sdp_traffic(units: Sequence[Unit], ranks: int) -> Sequence[Traffic]:
    """Each gradient goes to the rank that updates its parameter, and the parameter comes back."""
    whole = sum(map(math.prod, itertools.chain(*units)))
    return [Traffic(kind="reduce", elements=whole), Traffic(kind="broadcast", elements=whole)]


def _fsdp_memory(share: Share) -> Footprint:
    """Of each unit a rank's n-th, padding included, as one tensor."""
    part = sum(flat_size(unit, share.ranks) // share.ranks for unit in share.units)
    return Footprint(
        parameters=FP32 * part, gradients=FP32 * part, optimizer=state_bytes(share, part, len(share.units))
    )


def _sdp_memory(share: Share) -> Footprint:
    """All parameters and gradients, and the optimizer state of those parameters that this rank updates.

    OSS goes through them in order and gives each to the rank that has the fewest elements so far, the first of equals:
    so ranks are uneven, by up to the largest parameter. Gradients of other ranks' parameters stay, unlike in the
    paper's stage 2, for they are views of buckets that are never freed.
    """
    given: list[list[int]] = [[] for _ in range(share.ranks)]
    for shape in share.shapes:
        min(given, key=sum).append(math.prod(shape))
    own = given[share.rank]
    return dataclasses.replace(whole_memory(share), optimizer=state_bytes(share, sum(own), len(own)))


_FLATTENED = "FairScale flattens parameters as contiguous memory, which forgets their format; choose ddp"

FAIRSCALE_FSDP = Strategy(
    name="fairscale_fsdp",
    shard=_fsdp,
    requires=("fairscale",),
    shards=frozenset({"parameters", "optimizer"}),
    traffic=_fsdp_traffic,
    memory=_fsdp_memory,
    refuses={"chlast": _FLATTENED},
)

FAIRSCALE_SDP = Strategy(
    name="fairscale_sdp",
    shard=_sdp,
    requires=("fairscale",),
    shards=frozenset({"optimizer"}),
    traffic=_sdp_traffic,
    memory=_sdp_memory,
    refuses={
        "chlast": _FLATTENED,
        "offload": "OSS updates parameters where they lie; fsdp1, fsdp2 and zero1 to zero3 can offload",
    },
)
