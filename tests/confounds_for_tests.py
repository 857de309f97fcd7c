"""Strategies that each train a little differently in a way that is easily overlooked: given as `--plugins`.

All but the named fault is `ddp`, or the strategy that the fault belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

from harness.plugins import BuiltModel, InputKind, Model, ModelSpec, Strategy
from harness.strategies import fsdp, zero
from harness.strategies._eager import eager_trainee, plain_state
from harness.strategies.data_parallel import DDP


def _tiny_detector(spec: ModelSpec) -> BuiltModel:
    """Return a detector as torchvision's are called, whose loss is a mean over the boxes of its batch."""
    import torch
    from torch import nn

    class TinyDetector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(4, 4)

        def forward(self, images: Any, targets: Any = None) -> Any:
            corners = [self.head(self.features(image[None])) * 100 for image in images]
            if not self.training:
                one = torch.ones(1)
                return [{"boxes": c.clamp(0, 8), "scores": one, "labels": one.long()} for c in corners]
            apart = [c - t["boxes"] for c, t in zip(corners, targets, strict=True)]
            return {"loss_box": torch.cat(apart).div(100).square().mean()}

    return BuiltModel(module=TinyDetector(), blocks=(nn.Linear,), weights="random initialisation")


def _mostly_frozen(spec: ModelSpec) -> BuiltModel:
    """Return a classifier of which a small part is trained, as in fine-tuning."""
    import torch
    from torch import nn

    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(40), nn.Linear(40, spec.classes))
    module(torch.zeros(2, 3, spec.image_size, spec.image_size))
    module[:4].requires_grad_(False)
    return BuiltModel(module=module, blocks=(nn.Conv2d,), weights="random initialisation")


TINY_DETECTOR = Model(name="tiny_detector", input=InputKind.DETECTION, build=_tiny_detector)
FROZEN_NET = Model(name="frozen_net", input=InputKind.IMAGES, build=_mostly_frozen)


def _gradients(change: Callable[[Any, int], None], workload: Any, world: Any) -> Any:
    """Train with gradients that are changed just before the optimizer applies them."""
    trainee = DDP.shard(workload, world)

    def before(optimizer: Any, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                change(parameter.grad, world.size)

    trainee.optimizer.register_step_pre_hook(before)
    return trainee


def _with(prepare: Callable[[Any, Any], None], workload: Any, world: Any) -> Any:
    """Train by `ddp` what has been changed first."""
    prepare(workload, world)
    return DDP.shard(workload, world)


def _after_step(change: Callable[[Any, Any], None], workload: Any, world: Any) -> Any:
    trainee = DDP.shard(workload, world)
    sound = trainee.step

    def step(batch: Any) -> Any:
        loss = sound(batch)
        change(trainee, world)
        return loss

    return replace(trainee, step=step)


def _zero(change: Callable[[dict[str, Any]], None], workload: Any, world: Any) -> Any:
    """ZeRO-1 by another configuration."""
    sound = zero._config

    def changed(*arguments: Any, **named: Any) -> Any:
        config = sound(*arguments, **named)
        change(config)
        return config

    with mock.patch.object(zero, "_config", changed):
        return zero.STRATEGIES[0].shard(workload, world)


def _default_clipping(config: dict[str, Any]) -> None:
    """DeepSpeed as it comes clips at a norm of 1."""
    del config["gradient_clipping"]


def _bf16_communication(config: dict[str, Any]) -> None:
    config["communication_data_type"] = "bf16"


def _targets(batch: Any) -> int:
    return sum(len(t["labels"]) if isinstance(t, dict) else 1 for t in batch[1])


def _weighted_loss(workload: Any, world: Any) -> Any:
    """The mean over all boxes, where the others take the mean of the ranks' means."""
    import torch
    import torch.distributed as dist

    sound = workload.loss

    def loss(module: Any, batch: Any) -> Any:
        own = torch.tensor(float(_targets(batch)))
        whole = own.clone()
        dist.all_reduce(whole)
        return sound(module, batch) * own / whole * world.size

    workload.loss = loss
    return DDP.shard(workload, world)


def _short_batch(workload: Any, world: Any) -> Any:
    """The last rank loses a sample, as when a short last batch is dealt out, and counts as much as the others."""
    trainee = DDP.shard(workload, world)
    sound = trainee.step
    keep = None if world.rank < world.size - 1 else -1
    return replace(trainee, step=lambda batch: sound((batch[0][:keep], batch[1][:keep])))


def _same_shard(workload: Any, world: Any) -> Any:
    """A sampler that was not told its rank: all train on rank 0's samples."""
    import torch.distributed as dist

    trainee = DDP.shard(workload, world)
    sound = trainee.step

    def step(batch: Any) -> Any:
        for part in batch:
            dist.broadcast(part, 0)
        return sound(batch)

    return replace(trainee, step=step)


def _bf16_reduction(workload: Any, world: Any) -> Any:
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

    trainee = DDP.shard(workload, world)
    trainee.module.register_comm_hook(None, bf16_compress_hook)
    return trainee


def _no_master(workload: Any, _: Any) -> None:
    """The weights themselves are BF16, with no FP32 copy for the optimizer."""
    workload.module.bfloat16()
    sound = workload.loss
    workload.loss = lambda module, batch: sound(module, (batch[0].bfloat16(), batch[1]))


def _rate_per_rank(_: Any, world: Any) -> None:
    """The schedule is stepped once for every rank."""
    from harness.worker import options

    sound = options.schedule

    def schedule(*arguments: Any, **named: Any) -> Any:
        made = sound(*arguments, **named)
        one = made.step

        def step() -> None:
            for _ in range(world.size):
                one()

        made.step = step
        return made

    options.schedule = schedule


def _by_default(workload: Any, world: Any) -> Any:
    """DDP as it comes sends rank 0's buffers to all before each forward."""
    import warnings

    from torch.nn.parallel import DistributedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = DistributedDataParallel(workload.module)
    return _eager(workload, world, module)


def _eager(workload: Any, world: Any, module: Any, **library: Any) -> Any:
    optimizer = workload.optimizer.make(module.parameters())
    return eager_trainee(workload, world, module, optimizer, lambda: plain_state(workload.module), **library)


def _average_buffers(trainee: Any, world: Any) -> None:
    import torch.distributed as dist

    for buffer in trainee.module.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= world.size


def _broadcast_buffers(trainee: Any, world: Any) -> None:
    import torch.distributed as dist

    for buffer in trainee.module.buffers():
        dist.broadcast(buffer, 0)


def _decay_only_matrices(workload: Any, world: Any) -> Any:
    """Weight decay leaves out BatchNorm and biases."""
    trainee = DDP.shard(workload, world)
    [group] = trainee.optimizer.param_groups
    vectors = [p for p in group["params"] if p.ndim == 1]
    group["params"] = [p for p in group["params"] if p.ndim > 1]
    trainee.optimizer.add_param_group({"params": vectors, "weight_decay": 0.0})
    return trainee


def _fsdp1(workload: Any, world: Any, **settings: Any) -> Any:
    import torch
    from torch.distributed.fsdp import FullyShardedDataParallel

    module = FullyShardedDataParallel(
        workload.module, device_id=torch.device(world.device), use_orig_params=True, **settings
    )
    return fsdp._trainee(workload, world, module)


def _shards_nothing(workload: Any, world: Any) -> Any:
    """FSDP that keeps everything on every rank."""
    from torch.distributed.fsdp import ShardingStrategy

    return _fsdp1(workload, world, sharding_strategy=ShardingStrategy.NO_SHARD)


def _wraps_nothing(workload: Any, world: Any) -> Any:
    """FSDP in one unit, as when the policy names a class that the model has not: it trains alike, and gathers all at
    once.
    """
    return _fsdp1(workload, world)


def _extra_all_reduce(workload: Any, world: Any) -> Any:
    """Gradients are reduced by the library, and once more by hand: the mean of equal means is the mean."""
    import torch.distributed as dist

    trainee = DDP.shard(workload, world)

    def again(optimizer: Any, *_: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"][:1]:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world.size

    trainee.optimizer.register_step_pre_hook(again)
    return trainee


def _bf16_reduce_scatter(workload: Any, world: Any) -> Any:
    """FSDP2 with a policy meant for mixed precision."""
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    fully_shard(workload.module, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.bfloat16))
    return fsdp._trainee(workload, world, workload.module)


def _local_clipping(workload: Any, world: Any) -> Any:
    """torch's function on FSDP1's shards clips each rank's part by its own norm."""
    return _fsdp1(workload, world)


def _summed_micro_batches(workload: Any, _: Any) -> None:
    """Each micro-batch's loss is not divided by their number."""
    sound = workload.loss
    workload.loss = lambda module, batch: sound(module, batch) * workload.accumulation


def _skips_micro_batch(workload: Any, world: Any) -> Any:
    """The last rank leaves out the last of its micro-batches."""
    parts = workload.accumulation
    if world.rank == world.size - 1:
        workload.accumulation -= 1
    trainee = DDP.shard(workload, world)
    sound = trainee.step

    def step(batch: Any) -> Any:
        keep = len(batch[1]) // parts * workload.accumulation
        return sound((batch[0][:keep], batch[1][:keep]))

    return replace(trainee, step=step)


def _autocast(workload: Any, _: Any) -> None:
    """Autocast was left on."""
    import torch

    sound = workload.loss

    def loss(module: Any, batch: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return sound(module, batch)

    workload.loss = loss


def _smoothed(workload: Any, _: Any) -> None:
    """The loss of another recipe."""
    from torch.nn import functional

    sound = functional.cross_entropy
    functional.cross_entropy = partial(sound, label_smoothing=0.1)


def _other_weights(workload: Any, _: Any) -> None:
    """The model is built once more, from another seed."""
    import torch

    torch.manual_seed(1)
    for module in workload.module.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def _optimizer(change: Callable[[dict[str, Any], int], None], workload: Any, world: Any) -> None:
    arguments = dict(workload.optimizer.arguments)
    change(arguments, world.size)
    workload.optimizer = replace(workload.optimizer, arguments=arguments)


def _one_apart(workload: Any, _: Any) -> None:
    """DDP is told to leave one parameter alone."""
    from torch.nn.parallel import DistributedDataParallel

    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(workload.module, ["4.bias"])


def _evaluation_mode(workload: Any, _: Any) -> None:
    """Nobody called `train` after an evaluation."""
    workload.module.eval()


def _swapped(workload: Any, world: Any) -> Any:
    """Rank r has the samples of rank n - 1 - r."""
    import torch
    import torch.distributed as dist

    trainee = DDP.shard(workload, world)
    sound = trainee.step

    def step(batch: Any) -> Any:
        swapped = []
        for part in batch:
            parts = [torch.empty_like(part) for _ in range(world.size)]
            dist.all_gather(parts, part)
            swapped.append(parts[-1 - world.rank])
        return sound(tuple(swapped))

    return replace(trainee, step=step)


_FAULTS: dict[str, Callable[[Any, Any], Any]] = {
    "default_clipping": partial(_zero, _default_clipping),
    "local_clipping": _local_clipping,
    "weighted_loss": _weighted_loss,
    "short_batch": _short_batch,
    "skips_micro_batch": _skips_micro_batch,
    "divided_twice": partial(_gradients, lambda gradient, size: gradient.div_(size)),
    "never_divided": partial(_gradients, lambda gradient, size: gradient.mul_(size)),
    "summed": partial(_with, _summed_micro_batches),
    "one_apart": partial(_with, _one_apart),
    "no_master": partial(_with, _no_master),
    "autocast_left_on": partial(_with, _autocast),
    "bf16_reduction": _bf16_reduction,
    "bf16_communication": partial(_zero, _bf16_communication),
    "rate_per_rank": partial(_with, _rate_per_rank),
    "rate_times_ranks": partial(_with, partial(_optimizer, lambda a, size: a.update(lr=a["lr"] * size))),
    "no_momentum": partial(_with, partial(_optimizer, lambda a, _: a.pop("momentum"))),
    "decays_matrices": _decay_only_matrices,
    "same_shard": _same_shard,
    "swapped": _swapped,
    "averaged_buffers": partial(_after_step, _average_buffers),
    "broadcast_buffers": partial(_after_step, _broadcast_buffers),
    "by_default": _by_default,
    "evaluation_mode": partial(_with, _evaluation_mode),
    "other_weights": partial(_with, _other_weights),
    "smoothed": partial(_with, _smoothed),
}
_SHARDED: dict[str, Callable[[Any, Any], Any]] = {
    "shards_nothing": _shards_nothing,
    "bf16_reduce_scatter": _bf16_reduce_scatter,
}
CONFOUNDS = (
    Strategy(name="extra_all_reduce", shard=_extra_all_reduce, traffic=DDP.traffic),
    Strategy(name="wraps_nothing", shard=_wraps_nothing, shards=fsdp.FSDP1.shards, traffic=fsdp.FSDP1.traffic),
    *(Strategy(name=name, shard=shard) for name, shard in _FAULTS.items()),
    *(
        Strategy(name=name, shard=shard, shards=frozenset({"parameters", "optimizer"}))
        for name, shard in _SHARDED.items()
    ),
)
