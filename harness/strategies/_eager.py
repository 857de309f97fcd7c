"""The training step and the plain state that every strategy with torch's own eager interface shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.plugins import Batch, Trainee, Workload

if TYPE_CHECKING:
    import torch
    from torch import nn

State = dict[str, "torch.Tensor"]


def eager_trainee(
    workload: Workload,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    full_state: Callable[[], State],
    zero_grad: Callable[[], None] | None = None,
) -> Trainee:
    """Return a trainee whose wrapped module reduces gradients during backward.

    Args:
        workload: as given to the strategy.
        module: the wrapped module.
        optimizer: over the parameters of the wrapped module.
        full_state: as in `Trainee`.
        zero_grad: how to clear gradients where it is not by the optimizer's own `zero_grad`.
    """
    zero_grad = zero_grad or optimizer.zero_grad

    def step(batch: Batch) -> torch.Tensor:
        zero_grad()
        loss = workload.loss(module, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return Trainee(module=module, step=step, full_state=full_state)


def plain_state(module: nn.Module) -> State:
    """Return copies on the CPU of the parameters and buffers of a module that is not sharded."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}
