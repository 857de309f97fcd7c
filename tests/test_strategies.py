"""Every strategy trains exactly as one process that plays all ranks in turn, and shards what it says it shards.

One pair of gloo ranks per strategy trains a small network with both optimizers; the tests look at what it reported.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from harness.plugins import InputKind, OptimizerSpec, Strategy, Workload, World
from harness.registry import discover
from tests.ranks import run_ranks

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

OPTIMIZERS = (
    OptimizerSpec(name="sgd", arguments={"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2}),
    # A large eps, lest AdamW blow the rounding of a vanishing gradient up to a whole step.
    OptimizerSpec(name="adamw", arguments={"lr": 1e-3, "weight_decay": 1e-2, "eps": 1e-3}),
)
BATCH_SIZE = 4
STEPS = 4

SHARED_BY_TWO = {
    # strategy: share of the parameters and of the optimizer's state that one of two ranks holds
    "ddp": (1.0, 1.0),
    "fsdp1": (0.5, 0.5),
    "fsdp2": (0.5, 0.5),
    "fairscale_fsdp": (0.5, 0.5),
    "fairscale_sdp": (1.0, 0.5),
    "zero1": (1.0, 0.5),
    "zero2": (1.0, 0.5),
    "zero3": (0.5, 0.5),
}


# ------------------------------------------------------------------------------------------------ in the ranks


def network(*, frozen: Sequence[str] = ("0", "1.1.conv", "7.bias")) -> tuple[nn.Module, type[nn.Module]]:
    """Return a network with every trap, and the class of its blocks.

    BatchNorm; frozen modules in the outermost unit and in a block; a module with both frozen and trained parameters;
    two weights just above the 100,000 elements from which ZeRO-3 shards a parameter.
    """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            new: torch.Tensor = self.norm(self.conv(x))
            return x + new.relu()

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Sequential(Block(), Block()),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 800),
        nn.ReLU(),
        nn.Linear(800, 128),
        nn.Linear(128, 10),
    )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(frozen)))
    return module, Block


def batches(rank: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield one rank's batches, all different."""
    import torch

    generator = torch.Generator().manual_seed(1000 + rank)
    while True:
        yield torch.randn(BATCH_SIZE, 3, 8, 8, generator=generator), torch.arange(BATCH_SIZE) + rank


def loss(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    from torch.nn import functional

    images, labels = batch
    value: torch.Tensor = functional.cross_entropy(module(images), labels)
    return value


def predict(module: nn.Module, rank: int) -> np.ndarray:
    """Return the logits of the rank's first batch in evaluation mode, and go back to training mode."""
    import torch

    module.eval()
    with torch.no_grad():
        logits: np.ndarray = module(next(batches(rank))[0]).numpy()
    module.train()
    return logits


def arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in state.items()}


def train(rank: int, size: int, name: str) -> list[dict[str, Any]]:
    """Train with each optimizer; runs in a rank."""
    import torch
    import torch.distributed as dist

    world = World(rank=rank, local_rank=rank, size=size, device="cpu", backend="gloo")
    strategy: Strategy = discover().find("strategies", name)
    reports = []
    for optimizer in OPTIMIZERS:
        module, block = network()
        workload = Workload(module=module, loss=loss, optimizer=optimizer, blocks=(block,), batch_size=BATCH_SIZE)
        trainee = strategy.shard(workload, world)
        data = batches(rank)
        losses = [trainee.step(next(data)) for _ in range(STEPS // 2)]
        parameters, momentum = parameters_held(trainee.module), optimizer_state_held(optimizer)
        midway = predict(trainee.module, rank)
        losses += [trainee.step(next(data)) for _ in range(STEPS // 2)]
        state = arrays(trainee.full_state())
        for buffer in trainee.module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= size
        reports.append(
            {
                "losses": torch.stack(losses).tolist(),
                "attached": any(loss.requires_grad for loss in losses),
                "parameters_held": parameters,
                "momentum_held": momentum,
                "midway": midway,
                "state": state,
                "evaluated": predict(trainee.module, rank),
                "state_evaluated": arrays(trainee.full_state()),
            }
        )
    return reports


def count_unflattened_units(_rank: int, frozen: Sequence[str]) -> int:
    """Return how many units of FairScale's FSDP had to keep their parameters apart; runs in a rank."""
    module, block = network(frozen=frozen)
    workload = Workload(module=module, loss=loss, optimizer=OPTIMIZERS[0], blocks=(block,), batch_size=BATCH_SIZE)
    world = World(rank=0, local_rank=0, size=1, device="cpu", backend="gloo")
    trainee = discover().find("strategies", "fairscale_fsdp").shard(workload, world)
    return sum(not getattr(unit, "flatten_parameters", True) for unit in trainee.module.modules())


def parameters_held(module: nn.Module) -> int:
    """Return how many parameter elements lie in this rank's memory."""
    return sum(local(p).numel() + (p.ds_tensor.numel() if hasattr(p, "ds_tensor") else 0) for p in module.parameters())


def optimizer_state_held(spec: OptimizerSpec) -> int:
    """Return how many elements of optimizer state lie in this rank's memory, in whichever optimizer was made last."""
    import torch

    optimizers = [o for o in gc.get_objects() if type(o) is spec.factory]
    state = [t for o in optimizers for slots in o.state.values() for t in slots.values() if torch.is_tensor(t)]
    return sum(local(t).numel() for t in state)


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def train_plainly(_rank: int, size: int) -> list[tuple[dict[str, Any], ...]]:
    """Return what each of `size` ranks should report, per optimizer, from one process without any strategy.

    The ranks' modules share their parameters and have buffers of their own, so each backward adds to one gradient.
    """
    import copy

    import torch

    reports = []
    for spec in OPTIMIZERS:
        module, _ = network()
        ranks = [copy.deepcopy(module) for _ in range(size)]
        for replica in ranks:
            for own, shared in zip(replica.modules(), module.modules(), strict=True):
                own._parameters = shared._parameters
        optimizer = spec.make(module.parameters())
        data = [batches(rank) for rank in range(size)]
        losses: list[list[float]] = [[] for _ in ranks]
        midway: list[np.ndarray] = []
        for step in range(STEPS):
            optimizer.zero_grad()
            for rank, replica in enumerate(ranks):
                value = loss(replica, next(data[rank]))
                value.backward()  # type: ignore[no-untyped-call]
                losses[rank].append(value.item())
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad /= size
            optimizer.step()
            if step + 1 == STEPS // 2:
                midway = [predict(replica, rank) for rank, replica in enumerate(ranks)]
        states = [arrays(replica.state_dict()) for replica in ranks]
        for buffers in zip(*(replica.buffers() for replica in ranks), strict=True):
            if buffers[0].is_floating_point():
                mean = torch.stack(buffers).sum(0) / size
                for buffer in buffers:
                    buffer.copy_(mean)
        reports.append(
            [
                {
                    "parameters": sum(p.numel() for p in module.parameters()),
                    "trained": sum(p.numel() for p in module.parameters() if p.requires_grad),
                    "losses": losses[rank],
                    "midway": midway[rank],
                    "state": states[rank],
                    "evaluated": predict(replica, rank),
                    "state_evaluated": arrays(replica.state_dict()),
                }
                for rank, replica in enumerate(ranks)
            ]
        )
    return list(zip(*reports, strict=True))


# ---------------------------------------------------------------------------------------------------- the tests


@functools.cache
def trained(name: str, size: int) -> list[list[dict[str, Any]]]:
    """Return what each rank reported, per optimizer."""
    return run_ranks(train, size, size, name)


@functools.cache
def plain(size: int) -> list[tuple[dict[str, Any], ...]]:
    """Return what each rank should report, per optimizer."""
    reports: list[tuple[dict[str, Any], ...]] = run_ranks(train_plainly, 1, size)[0]
    return reports


def assert_same_training(name: str, size: int, tolerance: float = 0.0) -> None:
    """Compare losses and logits of every rank and the state of rank 0 with plain training, by absolute difference."""
    import numpy as np

    for rank, (found, wanted) in enumerate(zip(trained(name, size), plain(size), strict=True)):
        for spec, ours, theirs in zip(OPTIMIZERS, found, wanted, strict=True):
            for key in ("losses", "midway", "evaluated"):
                np.testing.assert_allclose(
                    ours[key], theirs[key], rtol=0, atol=tolerance, err_msg=f"{key} of rank {rank} with {spec.name}"
                )
            for moment in ("state", "state_evaluated") if rank == 0 else ():
                assert set(ours[moment]) == set(theirs[moment])
                for key, value in theirs[moment].items():
                    np.testing.assert_allclose(
                        ours[moment][key], value, rtol=0, atol=tolerance, err_msg=f"{key} in {moment} with {spec.name}"
                    )


@pytest.mark.parametrize("name", SHARED_BY_TWO)
def test_two_ranks_train_bit_for_bit_as_one_process_playing_both(name: str) -> None:
    # A sum of two and a division by two round alike in any order, and all else is the same arithmetic.
    assert_same_training(name, 2)


@pytest.mark.parametrize("name", [*SHARED_BY_TWO, "dp"])
def test_one_rank_trains_bit_for_bit_as_plain_training(name: str) -> None:
    assert_same_training(name, 1)


@pytest.mark.parametrize("name", ["fsdp2", "fairscale_fsdp", "zero3"])
def test_four_ranks_train_as_one_process_playing_all(name: str) -> None:
    # Four gradients may be summed in another order: some roundings of 6e-8 on values near 1.
    assert_same_training(name, 4, tolerance=1e-5)


@pytest.mark.parametrize("name", SHARED_BY_TWO)
def test_a_rank_holds_its_share_of_parameters_and_optimizer_state(name: str) -> None:
    parameters, state = SHARED_BY_TWO[name]
    for rank, reports in enumerate(trained(name, 2)):
        sgd, wanted = reports[0], plain(2)[rank][0]
        assert sgd["parameters_held"] / wanted["parameters"] == pytest.approx(parameters, abs=0.03)
        assert sgd["momentum_held"] / wanted["trained"] == pytest.approx(state, abs=0.03)


@pytest.mark.parametrize("name", SHARED_BY_TWO)
def test_losses_are_detached(name: str) -> None:
    assert not any(report["attached"] for reports in trained(name, 2) for report in reports)


def test_fairscale_flattens_every_unit_when_whole_modules_are_frozen() -> None:
    assert run_ranks(count_unflattened_units, 1, ("0", "1.0", "1.1.conv")) == [0]


def test_a_strategy_that_cannot_take_every_input_or_device_says_why() -> None:
    for strategy in discover().strategies.values():
        assert (strategy.accepts == frozenset(InputKind)) == (not strategy.cannot_split)
        assert (strategy.devices == {"cpu", "cuda"}) == (not strategy.needs_device)
