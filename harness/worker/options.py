"""What the options of a case do that no strategy needs to know of.

They change the plain module, the loss or the optimizer before the strategy sees them, or the learning rate after each
of its updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint

from harness.case import Case
from harness.plugins import Batch, BuiltModel, InputKind, OptimizerSpec
from harness.worker.training import LOSSES

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TORCH_RATE = 1e-3
"""The learning rate of torch's SGD and AdamW where none is given."""
_MOST_COMPILATIONS = 64
"""Blocks of one class that may each be compiled anew, as they differ in shape: torch's default of 8 would leave the
rest of a ResNet-50 uncompiled, with no more than a line in the log."""


def prepare(built: BuiltModel, case: Case) -> None:
    """Change the plain module as checkpointing, torch.compile and channels-last ask for, in place.

    A block gets a `forward` of its own, so names, hooks and whatever wraps the block later stay as they are. It is a
    partial of the class's function and not a bound closure, so that a deep copy of the module calls itself.
    """
    if case.channels_last:
        built.module.to(memory_format=torch.channels_last)
    if not (case.compiled or case.checkpointing):
        return
    if case.compiled:
        torch._dynamo.config.recompile_limit = _MOST_COMPILATIONS
    for block in [module for module in built.module.modules() if isinstance(module, built.blocks)]:
        forward: Callable[..., Any] = type(block).forward
        if case.compiled:
            forward = partial(_compiled, torch.compile(forward, dynamic=False), forward)
        if case.checkpointing:
            forward = partial(_checkpointed, forward)
        block.forward = partial(forward, block)


def _compiled(fast: Callable[..., Any], plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Evaluate without the compiler: it would compile anew, and cannot trace an FSDP unit that still has gradients."""
    return (fast if torch.is_grad_enabled() else plain)(*args, **kwargs)


def _checkpointed(forward: Callable[..., Any], block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _buffers_kept(block)

    return checkpoint(forward, block, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _buffers_kept(block: nn.Module) -> Iterator[None]:
    """Let the block write into copies of its buffers: a second forward must not count a batch twice in BatchNorm."""
    kept = [
        (module, name, tensor) for module in block.modules() for name, tensor in module.named_buffers(recurse=False)
    ]
    for module, name, tensor in kept:
        setattr(module, name, tensor.clone())
    try:
        yield
    finally:
        for module, name, tensor in kept:
            setattr(module, name, tensor)


def optimizer(spec: OptimizerSpec, case: Case) -> OptimizerSpec:
    """Return the optimizer with the case's learning rate and kernels."""
    arguments = dict(spec.arguments)
    if case.lr_scaling:
        arguments["lr"] = arguments.get("lr", _TORCH_RATE) * case.gpu_count
    if case.fused:
        arguments["fused"] = True
    return replace(spec, arguments=arguments)


def loss(kind: InputKind, case: Case, device: str) -> Callable[[nn.Module, Batch], torch.Tensor]:
    """Return the loss of a batch in the case's precision and memory format.

    Parameters stay FP32: torch's autocast computes forward and backward in the lower precision. Detection images keep
    their format, since the detector itself makes the batch of them: the weights' format decides the convolutions'.
    """
    plain = LOSSES[kind]
    if case.precision == "fp32" and not case.channels_last:
        return plain
    to_channels_last = case.channels_last and kind is InputKind.IMAGES
    dtype = _DTYPES.get(case.precision)

    def changed(module: nn.Module, batch: Batch) -> torch.Tensor:
        inputs, targets = batch
        if to_channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        # A cached cast would add up the gradients of a weight used twice in the lower precision, and autocast caches
        # for those strategies only whose parameters are no views.
        with torch.autocast(device.partition(":")[0], dtype=dtype, enabled=dtype is not None, cache_enabled=False):
            return plain(module, (inputs, targets))

    return changed


def schedule(optimizer: torch.optim.Optimizer, case: Case, *, steps: int) -> LambdaLR | None:
    """Return the schedule to step after each update, or None where the learning rate is constant.

    Update u of n, counted from 0, has this share of the full rate, with w updates of warm-up of which the last, or the
    first update where there are none, is the peak p = max(w - 1, 0):

    - (u + 1) / w in the warm-up, u < w;
    - after it 1 (constant), 1 - t (linear) or (1 + cos(pi t)) / 2 (cosine), where t = (u - p) / (n - p).

    So the last update has the smallest rate, and one more would have none.

    Args:
        optimizer: whose groups hold the full learning rate; the first update's is set at once.
        case: its `schedule` and `lr_warmup`.
        steps: updates of the whole training; the last has the schedule's smallest rate.
    """
    if case.schedule == "constant" and not case.lr_warmup:
        return None
    peak = max(case.lr_warmup - 1, 0)

    def share(update: int) -> float:
        if update < case.lr_warmup:
            return (update + 1) / case.lr_warmup
        done = (update - peak) / (steps - peak)
        return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[case.schedule]

    return LambdaLR(optimizer, share)
