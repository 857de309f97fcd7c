"""What each strategy must keep, counted by hand and held to real ranks to the byte; and planted faults, each named.

Real gloo ranks train a network of odd sizes through the accounted run itself.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.anatomy.memory import figures, unsharded_bytes
from harness.case import Case
from harness.plugins import Footprint, Share, World
from harness.records.account import Driver, Growth, Held, account
from harness.registry import discover
from harness.running.job import DataSettings, Job, OptimizerSettings
from tests.made import made_account
from tests.ranks import run_ranks

SEVERAL = ("ddp", "fsdp1", "fsdp2", "fairscale_fsdp", "fairscale_sdp", "zero1", "zero2", "zero3")
OPTIMIZERS = {
    "adamw": OptimizerSettings(name="adamw", arguments={"lr": 1e-3}),
    "sgd": OptimizerSettings(name="sgd", arguments={"lr": 0.01, "momentum": 0.9}),
    "plain": OptimizerSettings(name="sgd", arguments={"lr": 0.01}),
}

# ------------------------------------------------------------------------------------------------ counted by hand

UNITS = (((4, 4), (4,)), ((3, 4), (3,)))
"""A block of 16 + 4 elements, and outside of it 12 + 3: 35 in all, which is also their order in the module."""
SHAPES = ((4, 4), (4,), (3, 4), (3,))

BY_HAND = {
    # elements of parameters, gradients, state and master copies, and of the rest, of each of two ranks with momentum
    "ddp": ((35, 35, 35, 0, 35), (35, 35, 35, 0, 35)),
    # Units of 20 and 15, the second padded to 16; rank 1 has the padding, which has no state.
    "fsdp1": ((18, 18, 18, 0, 0), (18, 18, 17, 0, 0)),
    "fairscale_fsdp": ((18, 18, 18, 0, 0), (18, 18, 18, 0, 0)),
    # Two rows of each: 8 + 2 + 8 + 2, of which rank 1 lacks a row of 4 and one of 1.
    "fsdp2": ((20, 20, 20, 0, 0), (20, 20, 15, 0, 0)),
    # 16 to rank 0, then 4 and 12 to rank 1, and 3 to the first of equals.
    "fairscale_sdp": ((35, 35, 19, 0, 0), (35, 35, 16, 0, 0)),
    # 35 are padded to 36.
    "zero1": ((36, 18, 18, 18, 0), (36, 18, 18, 18, 0)),
    "zero2": ((36, 18, 18, 18, 0), (36, 18, 18, 18, 0)),
    # Halves of 8, 2, 6 and 2, and as small as they are all stay whole too, padded to 16 + 4 + 12 + 4.
    "zero3": ((18 + 36, 18, 18, 18, 2**23 + 18),) * 2,
}


def _share(rank, **over):
    return Share(**({"units": UNITS, "shapes": SHAPES, "ranks": 2, "rank": rank, "slots": 1} | over))


@pytest.mark.parametrize("name", BY_HAND)
def test_two_ranks_must_keep_what_is_counted_by_hand(name):
    memory = discover().find("strategies", name).memory
    for rank, wanted in enumerate(BY_HAND[name]):
        found = memory(_share(rank))
        elements = (found.parameters, found.gradients, found.optimizer, found.master, found.rest)
        assert elements == tuple(4 * size for size in wanted)


def test_adamw_keeps_two_numbers_an_element_and_counts_the_steps_of_each_tensor():
    adamw = {"slots": 2, "counters": True}
    memory = {name: discover().find("strategies", name).memory(_share(0, **adamw)).optimizer for name in SEVERAL}
    assert memory["ddp"] == 4 * (2 * 35 + 4)
    # Of the first 10 of 16 + 4, and of the first 8 of 12 + 3: one tensor of each.
    assert memory["fsdp1"] == 4 * (2 * 18 + 2)
    assert memory["fsdp2"] == 4 * (2 * 20 + 4)
    assert memory["fairscale_fsdp"] == 4 * (2 * 18 + 2)
    assert memory["zero1"] == memory["zero2"] == memory["zero3"] == 4 * (2 * 18 + 1)


def test_one_rank_keeps_what_a_plain_process_does_and_what_its_library_adds():
    for name in ("dp", *SEVERAL):
        alone = discover().find("strategies", name).memory(_share(0, ranks=1))
        padded = 36 if name in ("zero1", "zero2") else 35
        assert alone.parameters == alone.gradients == alone.optimizer == 4 * padded
        assert alone.master == (4 * padded if name.startswith("zero") else 0)


def test_a_part_within_one_parameter_keeps_its_whole_gradient_under_zero():
    memory = discover().find("strategies", "zero2").memory
    long = {"units": (((100,), (20,)),), "shapes": ((100,), (20,)), "ranks": 4}
    assert [memory(_share(rank, **long)).gradients for rank in range(4)] == [400, 400, 400, 120]


# ------------------------------------------------------------------------------------------------ in the ranks


def network():
    """Return a network whose sizes no number of ranks divides, one weight large enough for ZeRO-3 to shard."""
    import torch
    from torch import nn

    from harness.plugins import BuiltModel

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

        def forward(self, images):
            return self.norm(self.conv(images)).relu()

    torch.manual_seed(0)
    module = nn.Sequential(Block(), nn.Flatten(), nn.Linear(5 * 36, 601), nn.ReLU(), nn.Linear(601, 7))
    return BuiltModel(module=module, blocks=(Block,), weights="")


def plain(workload, world):
    """Train a replica alone: what comes out where nothing is wrapped."""
    from harness.strategies._eager import eager_trainee

    optimizer = workload.optimizer.make(workload.module.parameters())
    return eager_trainee(workload, world, workload.module, optimizer, dict)


def leaking(workload, world):
    import torch

    leaked = []
    return _after(
        discover().find("strategies", "ddp").shard(workload, world), lambda _: leaked.append(torch.ones(33, 5))
    )


def copying(workload, world):
    def copy(optimizer):
        for state in optimizer.state.values():
            state["again"] = state["momentum_buffer"].clone()

    return _after(discover().find("strategies", "fsdp1").shard(workload, world), copy)


def hoarding(workload, world):
    kept = [parameter.detach().clone() for parameter in workload.module.parameters()]
    return _after(discover().find("strategies", "fsdp2").shard(workload, world), lambda _: kept)


def _after(trainee, do):
    sound = trainee.step

    def step(batch):
        loss = sound(batch)
        do(trainee.applied)
        return loss

    return replace(trainee, step=step)


FAULTS = {"unwrapped": plain, "leaking": leaking, "copying": copying, "hoarding": hoarding}


def accounted(rank, size, runs):
    """Return the accounts of runs of a strategy, or of a fault, with an optimizer and options."""
    import torch

    from harness.worker import accounting
    from harness.worker.purposes import Context

    class Stub(Context):
        def training_data(self, split):
            generator = torch.Generator().manual_seed(rank)

            def endless(first_epoch):
                while True:
                    yield torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4) + rank

            return SimpleNamespace(dataset=range(64), endless=endless)

        def build(self):
            return network()

        @property
        def model(self):
            return SimpleNamespace(input="images")

        @property
        def strategy(self):
            return self.registry

    found = {}
    for name, optimizer, options in runs:
        case = Case.parse(f"net-{name}-{size}gpu-bs4{options}")
        job = Job(
            case_id=case.id,
            ranks=size,
            device_kind="cpu",
            backend="gloo",
            data=DataSettings(name="none", root=Path(), image_size=8),
            epochs=1,
            warmup_steps=1,
            measured_steps=1,
            optimizer=OPTIMIZERS[optimizer],
            folder=Path(),
        )
        strategy = discover().strategies.get(name) or SimpleNamespace(shard=FAULTS[name])
        context = Stub(
            job=job,
            case=case,
            world=World(rank=rank, local_rank=rank, size=size, device="cpu", backend="gloo"),
            phases=lambda name: nullcontext(),
            progress=None,
            registry=strategy,
        )
        found[name, optimizer, options] = accounting.account(context)["extra"]["account"]
    return found


def _figures(name, optimizer, options, size, of_ranks, strategy=None):
    strategy = strategy or discover().find("strategies", name)
    case = Case.parse(f"net-{name}-{size}gpu-bs4{options}")
    return figures(case, strategy, [account(found[name, optimizer, options]) for found in of_ranks])


FAULTY = [(name, "sgd", "") for name in FAULTS]
SOUND = {
    1: [*((name, "adamw", "") for name in SEVERAL), ("ddp", "plain", "")],
    2: [
        *((name, "adamw", "") for name in SEVERAL),
        ("fsdp1", "sgd", "-accum2"),
        ("zero2", "sgd", "-accum2"),
        ("fsdp2", "sgd", "-ckpt"),
        ("fsdp2", "sgd", "-bf16-offload"),
        ("zero1", "sgd", "-bf16-offload"),
        ("zero3", "sgd", "-bf16-offload"),
    ],
}


@pytest.fixture(scope="module")
def ran():
    return {size: run_ranks(accounted, size, size, [*SOUND[size], *FAULTY]) for size in (1, 2)}


@pytest.mark.parametrize(("size", "run"), [(size, run) for size in (1, 2) for run in SOUND[size]])
def test_real_ranks_keep_what_is_predicted_to_the_byte(ran, size, run):
    found = _figures(*run, size, ran[size])
    assert found.causes == ()
    assert len(found.rows) == size * 6
    apart = {(r.kind, r.rank): r.measured_bytes - r.predicted_bytes for r in found.rows}
    assert {key: more for key, more in apart.items() if more and key[0] != "rest"} == {}
    assert all(0 <= more < 64 for (kind, _), more in apart.items() if kind == "rest")
    assert found.predicted_state_bytes == found.held.state


def test_four_ranks_keep_what_is_predicted_to_the_byte():
    runs = [(name, "adamw", "") for name in ("fsdp1", "fsdp2", "fairscale_sdp", "zero2")]
    of_ranks = run_ranks(accounted, 4, 4, runs)
    for run in runs:
        found = _figures(*run, 4, of_ranks)
        assert found.causes == ()
        assert [r for r in found.rows if r.measured_bytes != r.predicted_bytes and r.kind != "rest"] == []


def test_sharding_is_told_from_replication(ran):
    sharded = {name: _figures(name, "adamw", "", 2, ran[2]).sharded for name in SEVERAL}
    assert sharded["ddp"] == 2.0
    for name in ("fsdp1", "fsdp2", "fairscale_fsdp"):
        assert 1.0 <= sharded[name] < 1.02
    # Parameters whole, and gradients, state of two and a master copy halved: (1 + 2.5 / 2 ...) x 2 / 4.
    assert sharded["zero1"] == sharded["zero2"] == pytest.approx((1 + (1 + 2 + 1) / 2) * 2 / 4, rel=0.01)
    assert 1.0 < sharded["fairscale_sdp"] < 2.0
    assert _figures("ddp", "plain", "", 1, ran[1]).sharded == 1.0


def test_every_strategy_computes_the_same_and_checkpointing_only_more(ran):
    of = {run: account(ran[2][0][run]) for run in SOUND[2]}
    flops = {record.flops - record.recomputed_flops for record in of.values()}
    assert len(flops) == 1
    assert {run[2] for run, record in of.items() if record.recomputed_flops} == {"-ckpt"}
    assert all(len(record.plain_s) and len(record.ledger_s) and record.op_bytes > 0 for record in of.values())
    assert all(record.driver is None and record.offloaded is None for record in of.values())


def _found(ran, fault, strategy, size=2):
    return _figures(fault, "sgd", "", size, ran[size], discover().find("strategies", strategy))


def test_fsdp_that_wraps_nothing_is_found_and_named(ran):
    found = _found(ran, "unwrapped", "fsdp2")
    assert found.sharded == pytest.approx(2.0)
    parameters, *others = found.causes
    assert parameters.startswith("parameters ")
    assert "MiB on every rank, predicted " in parameters
    assert parameters.endswith("2.0 times, as if it were not sharded over the 2 ranks (a module that is not wrapped)")
    assert [cause.split()[0] for cause in others] == ["gradients", "optimizer"]
    # Alone it keeps what one rank keeps: nothing is wrong.
    assert _found(ran, "unwrapped", "fsdp2", size=1).causes == ()


def test_a_zero_stage_that_shards_nothing_is_found_and_named(ran):
    found = _found(ran, "unwrapped", "zero2")
    assert [cause.split()[0] for cause in found.causes] == ["gradients", "optimizer", "master"]
    assert all(
        "as if it were not sharded over the 2 ranks (a stage that shards nothing)" in c for c in found.causes[:2]
    )
    assert "less than the strategy must keep" in found.causes[2]


@pytest.mark.parametrize("size", [1, 2])
def test_a_leaked_tensor_is_named_by_its_shape_and_what_made_it(ran, size):
    found = _found(ran, "leaking", "ddp", size)
    leak = found.causes[0]
    assert leak.startswith("leak on every rank: 0.000629 MiB more every step: float32 [33, 5] of aten.ones.default at ")
    assert "test_memory_prediction.py:" in leak


@pytest.mark.parametrize("size", [1, 2])
def test_one_more_copy_of_optimizer_state_is_named(ran, size):
    (cause,) = _found(ran, "copying", "fsdp1", size).causes
    assert cause.startswith("optimizer ")
    assert cause.endswith("state of 2 elements for each parameter, where the optimizer has 1")


@pytest.mark.parametrize("size", [1, 2])
def test_a_copy_that_nobody_owns_is_named(ran, size):
    (cause,) = _found(ran, "hoarding", "fsdp2", size).causes
    assert cause.startswith("rest ")
    assert "a copy, or a buffer that is never freed" in cause


# ------------------------------------------------------------------------------------------------ made by hand

STATE = Held(parameters=40_000, gradients=40_000, optimizer=40_000)


def _account(**over):
    facts = {
        "kept": STATE,
        "at_update": STATE,
        "at_peak": STATE,
        "ends_bytes": (STATE.total,) * 4,
        "peak_resident_bytes": None,
        "buffer_bytes": 0,
    }
    return made_account(**(facts | over))


PLAIN = SimpleNamespace(
    name="plain", memory=lambda share: Footprint(parameters=40_000, gradients=40_000, optimizer=40_000)
)


def _judge(*accounts, strategy=PLAIN):
    return figures(Case.parse(f"net-plain-{len(accounts)}gpu-bs4"), strategy, accounts)


def test_the_fullest_rank_counts_and_ranks_are_never_summed():
    fuller = _account(at_peak=replace(STATE, work=7_000))
    found = _judge(_account(), fuller, _account())
    assert found.fullest == 1
    assert found.account.at_peak.total == 127_000
    assert found.held.state == 120_000
    assert found.sharded == 3.0
    assert _judge(_account()).sharded == 1.0


def test_one_percent_is_allowed_and_more_is_not():
    assert _judge(_account(kept=replace(STATE, parameters=40_400))).causes == ()
    (cause,) = _judge(_account(), _account(kept=replace(STATE, parameters=40_500))).causes
    assert cause.startswith("parameters 0.0386 MiB on rank 1, predicted 0.0381 MiB")
    assert _judge(_account(kept=replace(STATE, rest=1_000))).causes == ()
    assert len(_judge(_account(kept=replace(STATE, rest=1_100))).causes) == 1


def test_what_lies_on_the_host_counts_with_what_lies_on_the_device():
    away = Held(parameters=40_000, optimizer=40_000)
    gpu = Driver(peak_allocated_bytes=1, peak_reserved_bytes=1, allocation_retries=0, used_bytes=1, total_bytes=2)
    on_device = Held(gradients=40_000, rest=10**6)
    found = _judge(_account(kept=on_device, at_update=on_device, offloaded=away, driver=gpu))
    assert found.causes == ()
    assert found.held.state == 120_000


def test_growth_in_no_one_place_is_found_too():
    growing = _account(ends_bytes=(100_000, 110_000, 112_000, 114_000))
    assert _judge(growing).causes == ("leak on every rank: 0.00191 MiB more after the last step, in no one place",)
    assert _judge(_account(ends_bytes=(100_000, 110_000, 110_000, 114_000))).causes == ()
    grown = Growth(operator="aten.clone.default", place="a/b.py:1", shape=(2,), type="float32", bytes_per_step=8)
    (cause,) = _judge(_account(), replace(growing, growth=(grown,))).causes
    assert cause == "leak on rank 1: 7.63e-06 MiB more every step: float32 [2] of aten.clone.default at a/b.py:1"


def test_nothing_is_predicted_of_what_is_partly_frozen_or_never_updated_and_why_is_said():
    frozen = _judge(_account(trained=9_000))
    assert (frozen.rows, frozen.unpredicted) == ((), "1,000 of 10,000 parameters are frozen")
    assert frozen.sharded == 120_000 / (4 * (10_000 + 2 * 9_000))
    overflowed = _judge(_account(at_update=None))
    assert "overflowed" in overflowed.unpredicted
    assert overflowed.sharded is None
    silent = _judge(_account(), strategy=SimpleNamespace(name="own", memory=None))
    assert silent.unpredicted == "own does not say what it keeps"
    assert silent.predicted_state_bytes is None


def test_a_plain_process_keeps_parameters_gradients_and_state():
    assert unsharded_bytes(_account()) == 120_000
    assert unsharded_bytes(_account(slots=2, counters=True)) == 160_004
    assert unsharded_bytes(_account(slots=0)) == 80_000
