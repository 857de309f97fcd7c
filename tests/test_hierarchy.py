"""Strategies for several nodes train as one process does, keep and move what is predicted: on 2 nodes of 2 ranks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.anatomy import memory
from harness.case import Case
from harness.certifier import _held_within_nodes, _laid_out
from harness.gate.evidence import Evidence
from harness.plugins import Share, Traffic
from harness.registry import discover
from tests.made import made_certificate, made_played, made_watched

SHAPES = ((4, 4), (4,), (3, 4), (3,))
UNITS = (SHAPES[:2], SHAPES[2:])


def _share(rank, **over):
    facts = {"units": UNITS, "shapes": SHAPES, "ranks": 4, "rank": rank, "slots": 1, "ranks_per_node": 2}
    return Share(**(facts | over))


@pytest.mark.parametrize("strategy", ["hsdp", pytest.param("zero3_hpz", marks=pytest.mark.slow)])
def test_it_trains_as_one_process_does_and_keeps_and_moves_what_is_predicted(strategy, make_pipeline, share, pipeline):
    """`mortal_net` has a weight above the size from which ZeRO-3 shards."""
    over = share(make_pipeline(plugins=("plugins_for_tests", "mortal_plugins"), accounted=True), pipeline)
    case = Case(model="mortal_net", strategy=strategy, gpu_count=4, batch_size=4, gpus_per_node=2)
    certificate = over.certificate(case)
    assert certificate.granted, certificate.causes
    assert {"communication", "sharding"} <= {row.fact for row in certificate.regime}
    result = over.explainer.explain(case, over.measure(case))
    held = memory.figures(case, over.registry.find("strategies", strategy), result.accounts)
    assert held.rows
    assert held.causes == ()


def test_hsdp_keeps_on_each_node_what_fsdp2_keeps_on_as_many_ranks():
    strategies = discover().strategies
    for rank in range(4):
        alone = _share(rank % 2, ranks=2, ranks_per_node=None)
        assert strategies["hsdp"].memory(_share(rank)) == strategies["fsdp2"].memory(alone)


def test_hpz_keeps_between_steps_what_zero3_keeps_on_all_ranks():
    strategies = discover().strategies
    for rank in range(4):
        assert strategies["zero3_hpz"].memory(_share(rank)) == strategies["zero3"].memory(_share(rank))


def _evidence(strategy, *held):
    ranks = tuple(
        made_watched(rank, held_parameters=parameters, held_state=state)
        for rank, (parameters, state) in enumerate(held)
    )
    case = Case.parse(f"net-{strategy.name}-4gpu-bs4-pernode2")
    played = made_played(4, sizes=(90_000, 10_000), trained=100_000)
    played = replace(played, ranks=tuple(replace(rank, held_state=100_000) for rank in played.ranks))
    return Evidence(case=case, strategy=strategy, reference=played, ranks=ranks)


HSDP = discover().find("strategies", "hsdp")


def test_half_of_everything_on_each_of_two_ranks_of_a_node_is_right():
    found = _held_within_nodes(made_certificate(), HSDP, _evidence(HSDP, *[(50_000, 50_000)] * 4))
    assert found.granted
    assert next(row for row in found.regime if row.fact == "sharding").same


@pytest.mark.parametrize("held", [(100_000, 100_000), (25_000, 25_000), (50_000, 100_000)])
def test_what_is_sharded_over_no_ranks_or_over_all_is_found(held):
    found = _held_within_nodes(made_certificate(), HSDP, _evidence(HSDP, *[held] * 4))
    assert not found.granted
    assert "must be a rank keeps 50,000 elements of parameters and 50,000 of the optimizer's state" in found.causes[0]


def test_what_it_moves_is_told_as_gloo_reports_it():
    laid_out = _laid_out(HSDP, Case.parse("net-hsdp-4gpu-bs4-pernode2"))
    assert laid_out.traffic(UNITS, 4) == [
        Traffic(kind="all_gather", elements=30, calls=3),
        Traffic(kind="all_reduce", elements=40 + 20, calls=2 + 2),
    ]
    assert sum(map(math.prod, SHAPES)) == 35


def test_a_strategy_for_one_node_is_left_as_it_is():
    ddp = discover().find("strategies", "ddp")
    assert _laid_out(ddp, Case.parse("net-ddp-4gpu-bs4-pernode2")) is ddp
