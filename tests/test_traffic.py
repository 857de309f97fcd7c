"""What each strategy must move, counted by hand, and the judge that holds it to that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.case import Case
from harness.certificate import Collective
from harness.gate.evidence import Evidence
from harness.gate.sameness import judge
from harness.plugins import Strategy, Traffic
from harness.registry import discover
from harness.report.certificates import sends
from tests.made import made_certificate, made_played, made_watched

UNITS = (((4, 4), (4,)), ((3, 4), (3,)))
"""A block of 16 + 4 elements, and outside of it 12 + 3: 35 in all."""

BY_HAND = {
    "ddp": {"all_reduce": (35, None)},
    # Laid end to end, the second unit is padded from 15 to 16. Both gathered, and the block again: 2 * 36 - 16 = 56.
    "fsdp1": {"all_gather": (28, 3), "reduce_scatter": (36, 2)},
    "fairscale_fsdp": {"all_gather": (28, 3), "reduce_scatter": (36, 2)},
    # Three rows are padded to four: 16 + 4 and 16 + 4. Gathered 2 * 40 - 20 = 60.
    "fsdp2": {"all_gather": (30, 3), "reduce_scatter": (40, 2)},
    "fairscale_sdp": {"reduce": (35, None), "broadcast": (35, None)},
    # 35 are aligned to 36.
    "zero1": {"all_reduce": (35, None), "all_gather": (18, None)},
    "zero2": {"all_reduce": (35, None), "all_gather": (18, None)},
    # Halves of 16, 4, 12 and 3: 8 + 2 + 6 + 2.
    "zero3": {"all_gather": (18, None), "reduce_scatter": (36, None)},
}

STRATEGY = Strategy(
    name="plain",
    shard=lambda *_: None,
    traffic=lambda units, ranks: [
        Traffic(kind="all_gather", elements=500, calls=3),
        Traffic(kind="reduce_scatter", elements=1000),
    ],
)


@pytest.mark.parametrize("name", BY_HAND)
def test_two_ranks_must_move_what_is_counted_by_hand(name):
    strategy = discover().find("strategies", name)
    found = {moved.kind: (moved.elements, moved.calls) for moved in strategy.traffic(UNITS, 2)}
    assert found == BY_HAND[name]


def test_every_strategy_for_several_processes_says_what_it_moves():
    strategies = discover().strategies.items()
    assert {name for name, one in strategies if one.traffic is None and one.hierarchy is None} == {"dp"}


def test_strategies_for_several_nodes_move_what_is_counted_by_hand():
    """On 2 nodes of 2, of the units above: `hsdp` as `fsdp2` on two ranks, and halves of 40 among nodes."""
    hsdp = discover().find("strategies", "hsdp").hierarchy.traffic(UNITS, 4, 2)
    assert [(m.kind, m.elements, m.calls) for m in hsdp] == [
        ("all_gather", 30, 3),
        ("reduce_scatter", 40, 2),
        ("all_reduce", 20, 2),
    ]
    # Of 200,002 and 35 elements, quarters: 50,001 and, of 16, 4, 12 and 3, 4 + 1 + 3 + 1. Again, the half of 200,004.
    hpz = discover().find("strategies", "zero3_hpz").hierarchy.traffic((*UNITS, ((200_002,),)), 4, 2)
    assert [(m.kind, m.elements) for m in hpz] == [("all_gather", 50_010 + 100_002), ("reduce_scatter", 4 * 50_010)]


def test_fsdp1_begins_each_parameter_at_sixteen_bytes():
    odd = (((3,), (4,)),)
    moved = {m.kind: m.elements for m in discover().find("strategies", "fsdp1").traffic(odd, 2)}
    assert moved == {"all_gather": 4, "reduce_scatter": 8}


def _collective(kind, elements, calls=3, type_="fp32", backend="gloo"):
    return Collective(backend=backend, kind=kind, type=type_, calls=calls, elements=elements)


SOUND = (_collective("all_gather", 500), _collective("all_reduce", 1000, 7), _collective("broadcast", 9, 1, "int"))


def _row(*collectives, case_id="net-plain-2gpu-bs4", strategy=STRATEGY, squares=(25.0, 16.0, 9.0), **over):
    """Return the row on communication, or None: rank 0 is sound, rank 1 moved what is given."""
    reference = made_played(**({"units": (((1000,),),), "sizes": (1000,)} | over))
    moved = enumerate((SOUND, collectives))
    ranks = tuple(made_watched(rank, collectives=own, gradient_squares=squares) for rank, own in moved)
    evidence = Evidence(case=Case.parse(case_id), strategy=strategy, reference=reference, ranks=ranks)
    certificate = judge(evidence, key="key", seconds=1.0, unix_time=2.0)
    assert certificate.collectives == SOUND
    return next((row for row in certificate.regime if row.fact == "communication"), None)


def test_a_reduce_scatter_is_gloos_all_reduce_and_integers_are_no_gradients():
    row = _row(*SOUND)
    assert row.same
    assert row.strategy == "all_gather of 500 in 3, all_reduce of 1,000 in 7"


@pytest.mark.parametrize(
    "moved",
    [
        (_collective("all_gather", 501), SOUND[1]),
        (_collective("all_gather", 500, calls=4), SOUND[1]),
        (SOUND[0], _collective("all_reduce", 999)),
        SOUND[:1],
        (*SOUND, _collective("reduce", 2)),
        (),
    ],
)
def test_one_element_or_call_more_or_less_on_any_rank_is_wrong(moved):
    row = _row(*moved)
    assert not row.same
    assert row.reference == "all_gather of 500 in 3, all_reduce of 1,000"


def test_nothing_is_said_where_nothing_is_known():
    wrong = (_collective("all_reduce", 1),)
    assert not _row(*wrong).same
    assert _row(*wrong, strategy=replace(STRATEGY, traffic=None)) is None
    assert _row(*wrong, case_id="net-plain-2gpu-bs4-accum2") is None
    assert _row(*wrong, units=()) is None
    assert _row(*wrong, trained=10) is None
    assert _row(_collective("all_reduce", 1, backend="nccl")) is None
    # A step that the loss scaler skipped: it moves less, and the one after it more.
    assert _row(*wrong, squares=(25.0, 16.0, 0.0)) is _row(*wrong, squares=(0.0, 16.0, 9.0)) is None


def test_a_rank_sends_by_the_best_algorithms_for_each_collective():
    mib = 2**20 // 4
    bytes_of_four = {"all_reduce": 1.5, "all_gather": 3, "reduce_scatter": 0.75, "reduce": 0.75, "broadcast": 0.75}
    for kind, mibs in bytes_of_four.items():
        assert _collective(kind, mib).wire_bytes(4) == mibs * 2**20
    assert _collective("all_reduce", mib, type_="bf16").wire_bytes(4) == 0.75 * 2**20
    assert _collective("all_to_all", 8).wire_bytes(4) is None
    assert _collective("all_reduce", 8, type_="c10::Unheard").wire_bytes(4) is None


def test_the_table_marks_what_was_predicted_and_says_na_for_what_it_does_not_know():
    row = _row(*SOUND)
    moved = (_collective("all_reduce", 2**20),)
    regime = made_certificate().regime
    assert sends(made_certificate(collectives=moved, regime=(*regime, row)), 2) == "4.0 MiB="
    assert sends(made_certificate(collectives=moved), 2) == "4.0 MiB "
    assert sends(made_certificate(collectives=(_collective("all_to_all", 8),)), 2) == "n/a"
    assert sends(made_certificate(collectives=()), 2) == "n/a"
