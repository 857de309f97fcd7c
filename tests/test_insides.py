"""The figures of what accounted and traced runs saw: every part in its place, and what is predicted beside it."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from harness.anatomy import memory
from harness.case import Case
from harness.figures import insides
from harness.figures.charts import Series, Stack, lines, stacks
from harness.figures.palette import PARTS, look_of
from harness.figures.results import grouped
from harness.records.account import Held
from harness.registry import discover
from tests.made import made_account, made_call, made_result, made_trace

SVG = "{http://www.w3.org/2000/svg}"
DDP, ZERO = "resnet18-ddp-2gpu-bs8", "resnet18-zero1-2gpu-bs8"
MIB = 2**20


def texts(figure):
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(figure.svg).iter(f"{SVG}text")]


def made_stacks(*rows, **over):
    rows = rows or (
        Stack(label="ddp", values=(3.0, 1.0), strategy="ddp", mark=5.0),
        Stack(label="zero1", values=(1.0, None), strategy="zero1"),
    )
    facts = {"name": "parts", "title": "Parts", "x_label": "MiB", "parts": ("kept", "work"), "mark": "predicted"}
    return stacks(rows=rows, **(facts | over))


def test_stacks_hold_parts_sum_and_mark_and_no_sum_of_what_is_not_known():
    figure = made_stacks()
    assert figure.head == ("", "kept", "work", "sum", "predicted")
    assert figure.rows == (("ddp", 3.0, 1.0, 4.0, 5.0), ("zero1", 1.0, None, None, None))
    assert {"4.00", "n/a", "kept", "work", "predicted", "MiB"} <= set(texts(figure))
    whole = made_stacks(Stack(label="ddp", values=(3.0, None), total=9.0))
    assert whole.rows[0][3] == 9.0


def test_a_strategy_is_known_by_its_marker_and_a_part_by_its_fill():
    styles = [node.get("style", "") for node in ElementTree.fromstring(made_stacks().svg).iter()]
    assert any(look_of("ddp").colour in style for style in styles)
    assert any(PARTS[0][0] in style for style in styles)


def test_no_part_has_the_colour_of_a_strategy_and_no_two_parts_are_alike():
    assert len(set(PARTS)) == len(PARTS)
    assert {fill for fill, _ in PARTS}.isdisjoint(look_of(name).colour for name in discover().strategies)


def test_stacks_that_cannot_be_told_apart_or_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="8 parts, and no more than 7"):
        made_stacks(parts=tuple("abcdefgh"))
    with pytest.raises(ValueError, match="ddp has 1 values of 2 parts"):
        made_stacks(Stack(label="ddp", values=(1.0,)))
    with pytest.raises(ValueError, match="ddp is nan"):
        made_stacks(Stack(label="ddp", values=(1.0, float("nan"))))


def traced(case_id, **over):
    calls = (made_call("all_reduce", 50, 80),)
    return made_result(case_id, traces=tuple(made_trace(compute=((0, 60),), calls=calls, **over) for _ in range(2)))


def test_the_budget_of_a_step_adds_up_and_what_the_kernel_does_not_tell_is_not_known():
    (group,) = grouped([traced(DDP), traced(ZERO, queued=None)])
    figure = insides.time_budget(group)
    assert figure.rows[0] == pytest.approx(("ddp", 60, 20, 0, 0, 20, 0, 0, 100))
    assert figure.rows[1][6] is None
    assert figure.rows[1][-1] == pytest.approx(100), "the step is known all the same"


def test_communication_is_cut_into_exposed_and_hidden():
    (group,) = grouped([traced(DDP)])
    assert insides.exposed_communication(group).rows[0] == pytest.approx(("ddp", 20, 10, 0, 30))


def test_memory_stands_beside_what_is_predicted_and_is_told_at_the_peak():
    case, strategy = Case.parse(DDP), discover().strategies["ddp"]
    state = {"parameters": MIB, "gradients": MIB, "optimizer": MIB, "buffers": 8_000}
    account = made_account(at_peak=Held(**state, work=2 * MIB))
    held = memory.figures(case, strategy, (account, account))
    (group,) = grouped([made_result(DDP), made_result(ZERO)])
    kept = insides.memory_kept(group, [held, None])
    due = sum(row.predicted_bytes for row in held.rows if row.rank == held.fullest) / MIB
    assert kept.rows[0][1] == pytest.approx(40_000 / MIB)
    assert kept.rows[0][-1] == pytest.approx(due)
    assert kept.rows[1][1:] == (None,) * 8
    peak = insides.memory_at_peak(group, [held, None])
    assert dict(zip(peak.head, peak.rows[0], strict=True))["work"] == pytest.approx(2)
    compiled = replace(held, case=replace(case, compiled=True))
    assert insides.memory_at_peak(group, [compiled, None]).rows[0][1:] == (None,) * 8


def test_rings_are_told_in_the_legend_and_are_no_part_of_the_numbers():
    line = Series(label="ddp", x=(1, 2), y=(1.0, 2.0), strategy="ddp")
    form = {"name": "n", "title": "t", "x_label": "run", "y_label": "ms", "series": [line]}
    ringed = lines(rings={"accepted": [(2, 2.0)]}, **form)
    assert "accepted" in texts(ringed)
    assert ringed.rows == lines(**form).rows
