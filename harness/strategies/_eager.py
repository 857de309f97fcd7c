"""The training step and the plain state that every strategy with torch's own eager interface shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.plugins import Batch, Trainee, Workload, World

if TYPE_CHECKING:
    import torch
    from torch import nn

State = dict[str, "torch.Tensor"]


def eager_trainee(
    workload: Workload,
    world: World,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    full_state: Callable[[], State],
    *,
    zero_grad: Callable[[], None] | None = None,
    applied: torch.optim.Optimizer | None = None,
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
    clip: Callable[[float], Any] | None = None,
    scaler: Callable[[str], torch.amp.GradScaler] | None = None,
) -> Trainee:
    """Return a trainee whose wrapped module reduces gradients during backward.

    Args:
        workload: as given to the strategy.
        world: as given to the strategy.
        module: the wrapped module.
        optimizer: over the parameters of the wrapped module.
        full_state: as in `Trainee`.
        zero_grad: how to clear gradients where it is not by the optimizer's own `zero_grad`.
        applied: the torch optimizer that writes the parameters, where `optimizer` wraps it.
        no_sync: in which backward leaves gradients unreduced, for all micro-batches but the last.
        clip: scales all gradients down to a global norm, where torch's own function cannot.
        scaler: makes the loss scaler of FP16 for a kind of device, where torch's own would not see an overflow in
            another rank's part of the gradients.
    """
    import torch

    zero_grad = zero_grad or optimizer.zero_grad
    parts, limit = workload.accumulation, workload.clipping
    clip = clip or partial(torch.nn.utils.clip_grad_norm_, list(module.parameters()))
    scaler = scaler or torch.amp.GradScaler
    scaling = scaler(world.device.partition(":")[0]) if workload.precision == "fp16" else None

    def backward(batch: Batch) -> torch.Tensor:
        loss = workload.loss(module, batch)
        if parts > 1:
            loss = loss / parts
        (scaling.scale(loss) if scaling else loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(batch: Batch) -> torch.Tensor:
        zero_grad()
        losses = []
        *first, last = micro_batches(batch, parts)
        if first:
            with no_sync():
                losses = [backward(part) for part in first]
        losses.append(backward(last))
        if scaling:
            scaling.unscale_(optimizer)
        if limit is not None:
            clip(limit)
        if scaling:
            scaling.step(optimizer)
            scaling.update()
        else:
            optimizer.step()
        return sum(losses[1:], start=losses[0])

    return Trainee(
        module=module,
        step=step,
        full_state=full_state,
        optimizer=optimizer,
        applied=applied or optimizer,
        scaler=scaling,
    )


def micro_batches(batch: Batch, parts: int) -> Sequence[Batch]:
    """Return a batch, of tensors or of lists, cut into equal parts along its samples."""
    inputs, targets = batch
    size = len(targets) // parts
    return [(inputs[at : at + size], targets[at : at + size]) for at in range(0, len(targets), size)]


def plain_state(module: nn.Module) -> State:
    """Return copies on the CPU of the parameters and buffers of a module that is not sharded."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}
