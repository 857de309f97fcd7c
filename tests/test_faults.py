"""Planted faults do what they are called, on every rank alike, and nothing else: training stays what it was."""

from __future__ import annotations

import itertools
import re
from functools import cache, partial
from typing import Any
from unittest import mock

import pytest

from harness.anatomy.memory import figures
from harness.case import Case
from harness.errors import CannotRun, HarnessError, WorkerFailed
from harness.plugins import OptimizerSpec, Workload, World
from harness.records.account import account
from harness.registry import discover
from harness.running.certifier import Certifier
from harness.running.plant import NAMES, Plant, parse
from tests.ranks import run_ranks

HARMLESS = ("burn:5%", "sleep:5%", "all_reduce", "all_reduce:2", "no_overlap", "optimizer_copy", "leak")
"""To what is trained."""
STEPS = 5
ELEMENTS = 192 * 2048 + 2048 + 2048 * 160 + 160

# ---------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "name", "size"),
    [
        ("burn:5%", "burn", 0.05),
        ("burn:2.5%", "burn", 0.025),
        ("burn:0.05", "burn", 0.05),
        (" sleep : 5 % ", "sleep", 0.05),
        ("burn", "burn", 0.05),
        ("wrong_lr:100%", "wrong_lr", 1.0),
        ("all_reduce", "all_reduce", 1.0),
        ("all_reduce:2", "all_reduce", 2.0),
        ("leak", "leak", 1.0),
    ],
)
def test_a_fault_is_read_as_it_is_written(text, name, size):
    assert parse(text) == Plant(name, pytest.approx(size))
    assert parse(str(parse(text))) == parse(text)


def test_what_is_shown_says_the_size_in_percent_or_calls():
    assert [str(parse(text)) for text in ("burn:0.025", "all_reduce:2", "leak")] == [
        "burn:2.5%",
        "all_reduce:2",
        "leak",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("brun:5%", "no fault to plant 'brun'; did you mean 'burn'"),
        ("", "no fault to plant ''"),
        ("burn:5", "'5' is no share above 0 % and up to 100 %"),
        ("burn:-5%", "no share"),
        ("burn:0", "no share"),
        ("burn:", "'' is no share"),
        ("burn:nan", "no share"),
        ("burn:inf%", "no share"),
        ("burn:5%%", "no share"),
        ("all_reduce:0", "no whole number of 1 to 1000"),
        ("all_reduce:1.5", "no whole number"),
        ("all_reduce:5%", "no whole number"),
        ("leak:3", r"leak \(a tensor is kept with every step\) has no size"),
    ],
)
def test_what_is_no_fault_is_refused_with_what_to_write(text, says):
    with pytest.raises(HarnessError, match=says):
        parse(text)


# ------------------------------------------------------------------------------------------------------- in ranks


def trained(rank: int, size: int, plants: tuple[str, ...]) -> dict[str, Any]:
    """Return of each fault, planted in DDP, the losses, a digest of the weights, and the collectives of a late step."""
    import torch

    from harness.worker.watching import Watch, digest

    found = {}
    for plant in plants:
        told: dict[str, float] = {}
        trainee = _trainee(plant, rank, size, told)
        watch = Watch()
        losses = [float(trainee.step(batch)) for batch in _batches(rank, STEPS)]
        with watch.collectives():
            trainee.step(next(_batches(rank, 1)))
        collectives = [(c.kind, c.calls, c.elements) for c in watch.collective_records()]
        weights = sum(map(digest, trainee.module.parameters()))
        more = [len(state) for state in trainee.applied.state.values()]
        found[plant] = (losses, weights, collectives, more, told)
        torch.distributed.barrier()
    return found


def sized(rank: int, size: int, plants: tuple[str, ...]) -> dict[str, Any]:
    """Return what faults that slow do in a step, where a product takes 1 ms and a step 1 s, on the last rank 2 s."""
    import torch

    from harness.worker import faults

    found = {}
    for plant in plants:
        told: dict[str, float] = {}
        trainee = _trainee(plant, rank, size, told)
        step_s = 2.0 if rank == size - 1 else 1.0
        # The first step is slow, and is not to count.
        lengths = [9.0, step_s, 1.1 * step_s, *[faults._TRIED * 0.001] * faults._TRIALS]
        clock = itertools.chain.from_iterable((0.0, length) for length in lengths)
        with (
            mock.patch.object(faults, "_now", lambda world, clock=clock: next(clock)),
            mock.patch.object(torch, "mm", wraps=torch.mm) as products,
            mock.patch.object(faults.time, "sleep") as sleep,
        ):
            done = []
            for batch in _batches(rank, STEPS):
                products.reset_mock()
                sleep.reset_mock()
                trainee.step(batch)
                done.append((products.call_count, sum(call.args[0] for call in sleep.call_args_list)))
        found[plant] = (done, told)
    return found


def not_ddp(rank: int, size: int) -> str:
    """Return why no_overlap is not planted in FSDP."""
    from harness.worker import faults

    strategy = discover().find("strategies", "fsdp2")
    with pytest.raises(CannotRun) as refusal:
        faults.shard("no_overlap", strategy.shard, _workload(), _world(rank, size), {})
    return str(refusal.value)


def _trainee(plant: str, rank: int, size: int, told: dict[str, float]) -> Any:
    from harness.worker import faults

    shard = discover().find("strategies", "ddp").shard
    workload, world = _workload(), _world(rank, size)
    return faults.shard(plant, shard, workload, world, told) if plant else shard(workload, world)


def _world(rank: int, size: int) -> World:
    return World(rank=rank, local_rank=rank, size=size, device="cpu", backend="gloo")


def _workload() -> Workload:
    import torch
    from torch import nn

    torch.manual_seed(0)
    # Both layers have more than 1 MiB, so that DDP reduces in more than one bucket.
    return Workload(
        module=nn.Sequential(nn.Flatten(), nn.Linear(192, 2048), nn.ReLU(), nn.Linear(2048, 160)),
        loss=lambda module, batch: nn.functional.cross_entropy(module(batch[0]), batch[1]),
        optimizer=OptimizerSpec(name="adamw", arguments={"lr": 1e-3}),
        blocks=(nn.Linear,),
        batch_size=4,
    )


def _batches(rank: int, count: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(rank)
    return (
        (torch.rand(4, 3, 8, 8, generator=generator), torch.randint(4, (4,), generator=generator)) for _ in range(count)
    )


@pytest.fixture(scope="module")
def on_two():
    return run_ranks(trained, 2, 2, ("", *HARMLESS))


@pytest.mark.parametrize("size", [1, 2])
def test_what_costs_time_or_memory_leaves_training_as_it_is_bit_for_bit(size, on_two):
    for found in on_two if size == 2 else run_ranks(trained, 1, 1, ("", *HARMLESS)):
        losses, weights, *_ = found[""]
        assert len(set(losses)) == STEPS
        for plant in HARMLESS:
            assert found[plant][:2] == (losses, weights), plant


def test_an_all_reduce_of_the_model_more_is_made_in_every_step(on_two):
    for found in on_two:
        [(kind, calls, elements)] = found[""][2]
        assert (kind, elements) == ("all_reduce", ELEMENTS)
        assert found["all_reduce"][2] == [(kind, calls + 1, 2 * ELEMENTS)]
        assert found["all_reduce:2"][2] == [(kind, calls + 2, 3 * ELEMENTS)]


def test_without_overlap_the_same_is_reduced_in_one_call(on_two):
    for found in on_two:
        [(kind, calls, elements)] = found[""][2]
        assert calls > 1
        assert found["no_overlap"][2] == [(kind, 1, elements)]


def test_what_only_slows_or_keeps_communicates_nothing_more(on_two):
    for found in on_two:
        for plant in ("burn:5%", "sleep:5%", "optimizer_copy", "leak"):
            assert found[plant][2] == found[""][2], plant


def test_the_optimizer_keeps_a_tensor_more_of_each_parameter(on_two):
    for found in on_two:
        slots = found[""][3]
        assert found["optimizer_copy"][3] == [count + 1 for count in slots]


def test_what_slows_is_the_same_work_on_every_rank_in_proportion_to_its_size():
    plants = ("burn:2%", "burn:10%", "sleep:5%")
    for found in run_ranks(sized, 2, 2, plants):
        burnt = {plant: [products for products, _ in found[plant][0]] for plant in plants}
        # Three steps to size it by, of which the third has the trials besides.
        assert burnt["burn:2%"] == [0, 0, 100, 40, 40]
        assert burnt["burn:10%"] == [0, 0, 100, 200, 200]
        assert found["burn:2%"][1] == {"step_s": 2.0, "products": 40, "share": pytest.approx(0.02)}
        slept = [seconds for _, seconds in found["sleep:5%"][0]]
        assert slept == [0, 0, 0, pytest.approx(0.1), pytest.approx(0.1)]
        assert found["sleep:5%"][1] == {"step_s": 2.0, "sleep_s": pytest.approx(0.1), "share": 0.05}


def test_lost_overlap_is_refused_where_it_is_not_known_how():
    assert run_ranks(not_ddp, 1, 1) == [
        "the fault no_overlap is known for ddp alone: choose a case of ddp, or another fault"
    ]


# ------------------------------------------------------------------------------------------------------- in cases

TWO = Case(model="tiny_net", strategy="ddp", gpu_count=2, batch_size=4)


@pytest.fixture(scope="module")
def certify(pipeline, tmp_path_factory):
    """Return a function that makes the certificate of a case with a fault."""
    folder = tmp_path_factory.mktemp("certificates")

    def made(case: Case, plant: str):
        certifier = Certifier(
            registry=pipeline.registry,
            kept=folder,
            folder=folder,
            facts={"plant": plant},
            launch=partial(pipeline.ranks.launch, plant=plant),
        )
        return certifier.certificate(case, {})

    return made


@pytest.fixture(scope="module")
def clean(certify):
    return certify(TWO, "")


@pytest.mark.parametrize("plant", ["burn:5%", "sleep:5%", "no_overlap", "leak", "double_image"])
def test_what_does_not_change_training_is_certified_with_the_same_traffic(certify, clean, plant):
    certificate = certify(TWO, plant)
    assert (certificate.causes, certificate.found) == ((), "bit-equal")
    assert certificate.collectives == clean.collectives


def test_a_further_all_reduce_is_the_only_thing_that_its_certificate_lacks(certify, clean):
    certificate = certify(TWO, "all_reduce")
    [cause] = certificate.causes
    assert cause.startswith("communication: all_reduce of 6,260 in 2, the reference all_reduce of 3,130")
    assert certificate.found == "bit-equal"


def test_a_wrong_learning_rate_is_not_certified(certify):
    certificate = certify(TWO, "wrong_lr:5%")
    assert certificate.causes[0] == "learning rate: 0.0105, the reference 0.01"


@pytest.mark.parametrize(
    ("plant", "says"), [("double_image", r"1 doubled \(first 0\)"), ("lost_image", r"1 missing \(first 0\)")]
)
def test_a_validation_that_does_not_score_each_image_once_fails(pipeline, plant, says):
    with pytest.raises(WorkerFailed, match=says):
        pipeline.ranks.launch(TWO, plant, plant=plant)


@pytest.fixture(scope="module")
def accounts(pipeline):
    """Return a function that accounts the case with a fault, once."""

    @cache
    def of(plant: str) -> tuple[Any, ...]:
        reports, _ = pipeline.ranks.launch(TWO, plant, purpose="account", plant=plant)
        return tuple(account(report.extra["account"]) for report in reports)

    return of


@pytest.mark.parametrize(
    ("plant", "says"),
    [("optimizer_copy", r"optimizer .* on every rank, predicted"), ("leak", r"leak on every rank: .*\[5000\]")],
)
def test_memory_that_is_kept_for_nothing_is_seen_by_the_accounted_run(pipeline, accounts, plant, says):
    causes = figures(TWO, pipeline.registry.find("strategies", "ddp"), accounts(plant)).causes
    assert re.match(says, causes[0]), causes


def test_burnt_work_is_counted_by_the_accounted_run_and_keeps_nothing(accounts):
    for burnt, other in zip(accounts("burn:5%"), accounts("leak"), strict=True):
        assert burnt.flops > other.flops
        assert burnt.growth == ()


def test_a_fault_never_reaches_the_references_nor_the_next_job(pipeline):
    reports = [
        pipeline.ranks.launch(TWO, "replicate", purpose="replicate", sampled_s=0.0, plant=plant)[0]
        for plant in ("all_reduce", "burn:5%", "")
    ]
    assert len({str(report.extra["references"]) for ranks in reports for report in ranks}) == 1
    assert [bool(ranks[0].extra["planted"]) for ranks in reports] == [False, True, False]
    (first, second) = (report.extra["planted"] for report in reports[1])
    assert first == second
    assert first["share"] * first["step_s"] > 0


def test_every_fault_is_tried_here():
    tried = {parse(text).name for text in (*HARMLESS, "wrong_lr", "double_image", "lost_image")}
    assert tried == set(NAMES)
