"""Strategies for several nodes train as one process does, keep and move what is predicted: on 2 nodes of 2 ranks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.anatomy import memory
from harness.case import Case
from harness.certificate import Collective
from harness.gate.evidence import Evidence
from harness.gate.regime import rows
from harness.plugins import Share
from harness.registry import discover
from tests.made import made_played, made_watched

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


HSDP = discover().find("strategies", "hsdp")
MOVED = {"all_gather": (30, 3), "all_reduce": (40 + 20, 2 + 2)}
"""By `UNITS` on two nodes of two ranks; gloo tells a reduce-scatter as an all-reduce, which there is one of besides."""


def _row(fact, *, held=(18, 18), moved=MOVED, case_id="net-hsdp-4gpu-bs4-pernode2"):
    """Return a row of the regime of four ranks that keep so many elements of 36 and move what is given."""
    collectives = tuple(
        Collective(backend="gloo", kind=kind, type="fp32", calls=calls, elements=elements)
        for kind, (elements, calls) in moved.items()
    )
    kept = {"held_parameters": held[0] * 1000, "held_state": held[1] * 1000, "collectives": collectives}
    played = made_played(4, sizes=(36_000,), trained=36_000, units=UNITS)
    played = replace(played, ranks=tuple(replace(rank, held_state=36_000) for rank in played.ranks))
    ranks = tuple(made_watched(rank, **kept) for rank in range(4))
    evidence = Evidence(case=Case.parse(case_id), strategy=HSDP, reference=played, ranks=ranks)
    return next((row for row in rows(evidence) if row.fact == fact), None)


def test_half_of_everything_on_each_of_two_ranks_of_a_node_is_right():
    row = _row("sharding")
    assert row.same
    assert row.strategy == "a rank keeps 50% of the parameters and 50% of the optimizer state"


@pytest.mark.parametrize("held", [(36, 36), (9, 9), (18, 36), (18, 9)])
def test_what_is_sharded_over_no_ranks_or_over_all_is_found(held):
    row = _row("sharding", held=held)
    assert not row.same
    assert row.reference == "a rank keeps 50% of the parameters and 50% of the optimizer state"


def test_what_it_moves_within_a_node_and_over_nodes_is_added_up_as_gloo_reports_it():
    row = _row("communication")
    assert row.same
    assert row.strategy == "all_gather of 30 in 3, all_reduce of 60 in 4"
    for wrong in (MOVED | {"all_reduce": (40, 2)}, MOVED | {"all_reduce": (60, 5)}, {"all_gather": (30, 3)}):
        assert not _row("communication", moved=wrong).same


def test_without_nodes_nothing_of_its_traffic_is_known():
    assert _row("communication", case_id="net-hsdp-4gpu-bs4") is None
