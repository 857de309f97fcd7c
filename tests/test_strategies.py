"""Every strategy trains exactly as one process that plays all ranks in turn, and shards what it says it shards.

One pair of gloo ranks per strategy trains a small network with both optimizers; the tests look at what it reported.
"""

from __future__ import annotations

import functools
import gc
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from harness.case import Case, kind_of
from harness.plugins import BuiltModel, InputKind, OptimizerSpec, Strategy, Workload, World
from harness.registry import discover
from tests.ranks import run_ranks

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

OPTIMIZERS = {
    "sgd": OptimizerSpec(name="sgd", arguments={"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2}),
    # A large eps, lest AdamW blow the rounding of a vanishing gradient up to a whole step.
    "adamw": OptimizerSpec(name="adamw", arguments={"lr": 1e-3, "weight_decay": 1e-2, "eps": 1e-3}),
}
PLAIN = ("sgd", "adamw")
RUNS = (
    # optimizer and options of a case; in one process one after another
    *PLAIN,
    "sgd-ckpt-accum2-cosine-warmup2",
    "sgd-linear-chlast",
    "sgd-clip0.5",
    "adamw-fused",
    "adamw-offload",
    # Once told of autocast, DeepSpeed takes every later training of the process for one in that type.
    "sgd-bf16-ckpt",
    "sgd-fp16-accum2-clip0.5",
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


def network(*, frozen: Sequence[str] = ("0", "1.1.conv", "9.bias")) -> tuple[nn.Module, type[nn.Module]]:
    """Return a network with every trap, and the class of its blocks.

    BatchNorm; a linear layer that is used twice, and on three dimensions; frozen modules in the outermost unit and in a
    block; a module with both frozen and trained parameters; two weights just above the 100,000 elements from which
    ZeRO-3 shards a parameter.
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

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            new: torch.Tensor = self.linear(self.linear(x))
            return new

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Sequential(Block(), Block()),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(2),
        Twice(),
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
    """Yield one rank's batches, all different; the second has gradients that overflow in FP16 as first scaled."""
    import torch

    generator = torch.Generator().manual_seed(1000 + rank)
    for number in itertools.count():
        brightness = 100 if number == 1 else 1
        yield brightness * torch.randn(BATCH_SIZE, 3, 8, 8, generator=generator), torch.arange(BATCH_SIZE) + rank


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


def case_of(run: str, name: str, size: int) -> tuple[Case, OptimizerSpec]:
    """Return the case and the optimizer of a run, as the case has it."""
    from harness.worker import options

    optimizer, _, tokens = run.partition("-")
    case = Case.parse("-".join(filter(None, ("net", name, f"{size}gpu", f"bs{BATCH_SIZE}", tokens))))
    return case, options.optimizer(OPTIMIZERS[optimizer], case)


def workload_of(run: str, name: str, size: int) -> tuple[Case, Workload]:
    """Return the case of a run, and the network as the worker hands it to the strategy."""
    from harness.worker import options

    case, optimizer = case_of(run, name, size)
    module, block = network()
    options.prepare(BuiltModel(module=module, blocks=(block,), weights=""), case)
    return case, Workload(
        module=module,
        loss=options.loss(InputKind.IMAGES, case, "cpu"),
        optimizer=optimizer,
        blocks=(block,),
        batch_size=BATCH_SIZE,
        accumulation=case.accumulation,
        clipping=case.clipping,
        precision=case.precision,
        offload=case.offload == "cpu",
    )


def refused(run: str, name: str) -> bool:
    """Return whether the strategy refuses one of the run's options."""
    strategy: Strategy = discover().find("strategies", name)
    return any(kind_of(token) in {*strategy.refuses, *strategy.refuses_on_cpu} for token in run.split("-"))


def train(rank: int, size: int, name: str, runs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Train each run that the strategy does not refuse; runs in a rank."""
    import torch
    import torch.distributed as dist

    from harness.worker import options

    world = World(rank=rank, local_rank=rank, size=size, device="cpu", backend="gloo")
    strategy: Strategy = discover().find("strategies", name)
    reports = {}
    for run in runs:
        if refused(run, name):
            continue
        case, workload = workload_of(run, name, size)
        trainee = strategy.shard(workload, world)
        schedule = options.schedule(trainee.optimizer, case, steps=STEPS)
        data = batches(rank)
        losses = []
        rates = []
        for step in range(STEPS):
            losses.append(trainee.step(next(data)))
            rates.append([group["lr"] for group in trainee.applied.param_groups])
            if schedule is not None:
                schedule.step()
            if step + 1 == STEPS // 2:
                parameters, momentum = parameters_held(trainee.module), optimizer_state_held(workload.optimizer)
                midway = predict(trainee.module, rank)
        state = arrays(trainee.full_state())
        for buffer in trainee.module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= size
        reports[run] = {
            "losses": torch.stack(losses).tolist(),
            "attached": any(loss.requires_grad for loss in losses),
            "rates": rates,
            "parameters_held": parameters,
            "momentum_held": momentum,
            "midway": midway,
            "state": state,
            "evaluated": predict(trainee.module, rank),
            "state_evaluated": arrays(trainee.full_state()),
        }
    return reports


def weights_and_images_channels_last(rank: int, name: str) -> tuple[bool, bool]:
    """Return whether a block's convolution sees its weight and its input in that format in a third step."""
    import torch

    _, workload = workload_of("sgd-chlast", name, 2)
    seen = []

    def look(conv: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
        tensors = (conv.weight, inputs[0])
        seen.append(tuple(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors))

    block = next(module for module in workload.module.modules() if isinstance(module, workload.blocks))
    block.conv.register_forward_pre_hook(look)
    world = World(rank=rank, local_rank=rank, size=2, device="cpu", backend="gloo")
    trainee = discover().find("strategies", name).shard(workload, world)
    data = batches(rank)
    for _ in range(3):
        trainee.step(next(data))
    return seen[-1]


def count_unflattened_units(_rank: int, frozen: Sequence[str]) -> int:
    """Return how many units of FairScale's FSDP had to keep their parameters apart; runs in a rank."""
    from harness.worker.training import image_loss

    module, block = network(frozen=frozen)
    workload = Workload(
        module=module, loss=image_loss, optimizer=OPTIMIZERS["sgd"], blocks=(block,), batch_size=BATCH_SIZE
    )
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


def train_plainly(_rank: int, size: int, runs: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return what each of `size` ranks should report, per run, from one process without any strategy.

    The ranks' modules share their parameters and have buffers of their own. No block is checkpointed and nothing is
    offloaded: neither may be seen in what is trained.
    """
    import copy

    import torch

    from harness.worker import options

    reports = {}
    for run in runs:
        case, spec = case_of(run, "ddp", size)
        module, _ = network()
        loss = options.loss(InputKind.IMAGES, case, "cpu")
        ranks = [copy.deepcopy(module) for _ in range(size)]
        for replica in ranks:
            for own, shared in zip(replica.modules(), module.modules(), strict=True):
                own._parameters = shared._parameters
        optimizer = spec.make(module.parameters())
        schedule = options.schedule(optimizer, case, steps=STEPS)
        scaler = torch.amp.GradScaler("cpu", enabled=case.precision == "fp16")
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        data = [batches(rank) for rank in range(size)]
        losses: list[list[float]] = [[] for _ in ranks]
        rates = []
        norms = []
        midway: list[np.ndarray] = []
        for step in range(STEPS):
            sums = [torch.zeros_like(parameter) for parameter in trained]
            for rank, replica in enumerate(ranks):
                optimizer.zero_grad()
                values = []
                for part in zip(*(whole.chunk(case.accumulation) for whole in next(data[rank])), strict=True):
                    values.append(loss(replica, part) / case.accumulation)
                    scaler.scale(values[-1]).backward()
                losses[rank].append(torch.stack(values).sum().item())
                torch._foreach_add_(sums, [parameter.grad for parameter in trained])
            for parameter, total in zip(trained, sums, strict=True):
                parameter.grad = total / size
            scaler.unscale_(optimizer)
            norms.append(torch.nn.utils.clip_grad_norm_(trained, case.clipping or float("inf")).item())
            rates.append([group["lr"] for group in optimizer.param_groups])
            scaler.step(optimizer)
            scaler.update()
            if schedule is not None:
                schedule.step()
            if step + 1 == STEPS // 2:
                midway = [predict(replica, rank) for rank, replica in enumerate(ranks)]
        states = [arrays(replica.state_dict()) for replica in ranks]
        for buffers in zip(*(replica.buffers() for replica in ranks), strict=True):
            if buffers[0].is_floating_point():
                mean = torch.stack(buffers).sum(0) / size
                for buffer in buffers:
                    buffer.copy_(mean)
        reports[run] = [
            {
                "parameters": sum(p.numel() for p in module.parameters()),
                "trained": sum(p.numel() for p in trained),
                "losses": losses[rank],
                "rates": rates,
                "norms": norms,
                "scale": scaler.get_scale(),
                "midway": midway[rank],
                "state": states[rank],
                "evaluated": predict(replica, rank),
                "state_evaluated": arrays(replica.state_dict()),
            }
            for rank, replica in enumerate(ranks)
        ]
    return reports


# ---------------------------------------------------------------------------------------------------- the tests


@functools.cache
def trained(name: str, size: int) -> list[dict[str, dict[str, Any]]]:
    """Return what each rank reported, per run."""
    return run_ranks(train, size, size, name, RUNS if size < 4 else PLAIN)


@functools.cache
def plain(size: int) -> dict[str, list[dict[str, Any]]]:
    """Return what each rank should report, per run."""
    reports: dict[str, list[dict[str, Any]]] = run_ranks(train_plainly, 1, size, RUNS if size < 4 else PLAIN)[0]
    return reports


def assert_same_training(name: str, size: int, runs: Sequence[str], tolerance: float = 0.0) -> None:
    """Compare losses, rates and logits of every rank and the state of rank 0 with plain training.

    The tolerance is absolute for what is near or below 1, and relative for what is above.
    """
    import numpy as np

    for run, (rank, found) in itertools.product(runs, enumerate(trained(name, size))):
        ours, theirs = found[run], plain(size)[run][rank]
        for key in ("rates", "losses", "midway", "evaluated"):
            np.testing.assert_allclose(
                ours[key], theirs[key], rtol=tolerance, atol=tolerance, err_msg=f"{key} of rank {rank} in {run}"
            )
        for moment in ("state", "state_evaluated") if rank == 0 else ():
            assert set(ours[moment]) == set(theirs[moment])
            for key, value in theirs[moment].items():
                np.testing.assert_allclose(
                    ours[moment][key], value, rtol=tolerance, atol=tolerance, err_msg=f"{key} in {moment} of {run}"
                )


def rounds_otherwise(run: str, name: str) -> bool:
    """Return whether a strategy adds or multiplies in another order than the plain process in a run with options."""
    return (
        # A norm is a sum over all parameters, which most take part by part; DDP and DP call the same function.
        ("clip" in run and name not in ("ddp", "dp"))
        # The gradients of each micro-batch are added over the ranks before they are added to those of the next.
        or ("accum" in run and name in ("zero2", "zero3"))
        # The kernel rounds the elements at the end of a tensor otherwise, and shards end elsewhere.
        or ("fused" in run and name != "ddp")
    )


@pytest.mark.parametrize("name", SHARED_BY_TWO)
def test_two_ranks_train_bit_for_bit_as_one_process_playing_both(name: str) -> None:
    # A sum of two and a division by two round alike in any order, and all else is the same arithmetic.
    assert_same_training(name, 2, PLAIN)


@pytest.mark.parametrize("name", [*SHARED_BY_TWO, "dp"])
def test_one_rank_trains_bit_for_bit_as_plain_training(name: str) -> None:
    assert_same_training(name, 1, PLAIN)


@pytest.mark.parametrize("name", ["fsdp2", "fairscale_fsdp", "zero3"])
def test_four_ranks_train_as_one_process_playing_all(name: str) -> None:
    # Four gradients may be summed in another order: some roundings of 6e-8 on values near 1.
    assert_same_training(name, 4, PLAIN, tolerance=1e-5)


@pytest.mark.parametrize("run", RUNS[len(PLAIN) :])
@pytest.mark.parametrize(("name", "size"), [*((name, size) for name in SHARED_BY_TWO for size in (1, 2)), ("dp", 1)])
def test_options_train_as_the_same_options_do_without_a_strategy(name: str, size: int, run: str) -> None:
    if refused(run, name):
        pytest.skip(f"{name} refuses an option")
    # Four steps of few roundings of 6e-8.
    assert_same_training(name, size, [run], tolerance=5e-6 if rounds_otherwise(run, name) else 0.0)


def test_the_limit_clips_and_the_loss_scale_falls_in_the_runs_that_are_compared() -> None:
    for size in (1, 2):
        assert all(min(report["norms"]) > 0.75 for report in plain(size)["sgd-clip0.5"])
        fp16 = plain(size)["sgd-fp16-accum2-clip0.5"][0]
        assert (fp16["scale"], len([norm for norm in fp16["norms"] if norm == float("inf")])) == (2**15, 1)


@pytest.mark.parametrize("name", [name for name in SHARED_BY_TWO if not refused("chlast", name)])
def test_the_memory_format_of_weights_outlives_sharding(name: str) -> None:
    assert run_ranks(weights_and_images_channels_last, 2, name) == [(True, True)] * 2


@pytest.mark.parametrize("name", SHARED_BY_TWO)
def test_a_rank_holds_its_share_of_parameters_and_optimizer_state(name: str) -> None:
    parameters, state = SHARED_BY_TWO[name]
    for rank, reports in enumerate(trained(name, 2)):
        sgd, wanted = reports["sgd"], plain(2)["sgd"][rank]
        assert sgd["parameters_held"] / wanted["parameters"] == pytest.approx(parameters, abs=0.03)
        assert sgd["momentum_held"] / wanted["trained"] == pytest.approx(state, abs=0.03)


@pytest.mark.parametrize("name", SHARED_BY_TWO)
def test_losses_are_detached(name: str) -> None:
    assert not any(report["attached"] for reports in trained(name, 2) for report in reports.values())


def test_fairscale_flattens_every_unit_when_whole_modules_are_frozen() -> None:
    assert run_ranks(count_unflattened_units, 1, ("0", "1.0", "1.1.conv")) == [0]


def test_a_strategy_that_cannot_take_every_input_or_device_says_why() -> None:
    for strategy in discover().strategies.values():
        assert (strategy.accepts == frozenset(InputKind)) == (not strategy.cannot_split)
        assert (strategy.devices == {"cpu", "cuda"}) == (not strategy.needs_device)
