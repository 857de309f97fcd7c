"""What the gate says: why a case fails in numbers, what may be the cause, what to run next, and what became of all."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.anatomy.memory import figures
from harness.case import Case
from harness.gate.exact import Exact
from harness.gate.limits import Finding, Verdict
from harness.gate.policy import named
from harness.gate.timing import TimeVerdict
from harness.plugins import Footprint
from harness.registry import discover
from harness.report.verdicts import failure, render
from harness.running.pipeline import Outcome
from tests.made import made_account, made_baseline, made_certificate, made_result, made_samples, made_trace
from tests.made_runs import SLOWER as SLOWER_STEP

CASE = "resnet18-ddp-1gpu-bs8"
NODE = f"benches/test_classification.py::test_train[{CASE}]"
ACCEPT = "--benchmark-save=accepted"
STEP = replace(SLOWER_STEP, new_processes=20, stored_processes=15, stored_runs=3)
MACHINE = replace(STEP, view="machine", estimate=0.048, low=0.02, high=0.08, mde=0.09)
SLOWER = TimeVerdict(word="regressed", effects=(STEP, MACHINE), reasons=("same work: +5.2% and so on",))
ACCURACY = discover().metrics["accuracy"]
LOST = Finding(metric=ACCURACY, word="regressed", baseline=0.9, measured=0.85, rule="limit 2.0 %")


def _outcome(word="passed", *, case_id=CASE, baseline=None, memory=None, causes=(), result=None, **verdict):
    return Outcome(
        case=Case.parse(case_id),
        result=result or made_result(case_id),
        reference=None,
        reference_note="",
        verdict=Verdict(word=word, **verdict),
        certificate=made_certificate(case_id, causes=causes),
        baseline=made_baseline(made_result(case_id)) if baseline is None else baseline,
        memory=memory,
    )


def _failure(*arguments, **facts):
    return list(failure(_outcome(*arguments, **facts), f'pytest "{NODE}"', accept=ACCEPT))


def test_a_slower_case_tells_estimate_interval_what_it_sees_and_the_commands():
    earlier = made_result(CASE)
    assert _failure("regressed", time=SLOWER, baseline=made_baseline(earlier, earlier, earlier)) == [
        f"{CASE}: regressed against the stored runs",
        "  same work +5.2%, 95 % interval +4.1% to +6.3%, sees 3.4%; 20 processes against 15 of 3 stored runs",
        "  machine   +4.8%, 95 % interval +2.0% to +8.0%, sees 9.0%; 20 processes against 15 of 3 stored runs",
        "  baseline  2-core-made/0003_accepted.json, and 2 earlier of its level: 2-core-made, torch 2.15.0",
        f'  rerun     pytest "{NODE}" --benchmark-compare',
        f'  accept    pytest "{NODE}" {ACCEPT}',
    ]


@pytest.mark.parametrize(("word", "causes"), [("regressed", ()), ("uncertified", ("the gradient is halved",))])
def test_the_commit_that_made_it_worse_is_searched_from_the_one_that_was_accepted(word, causes):
    baseline = made_baseline(made_result(CASE))
    known = replace(baseline, level=tuple(replace(stored, commit="0123456789abcdef") for stored in baseline.level))
    lines = _failure(word, time=SLOWER, baseline=known, causes=causes)
    assert lines[-1] == f'  bisect    tools/bisect --good 0123456789ab -- "{NODE}"'
    assert not any("bisect" in line for line in _failure(word, time=SLOWER, baseline=baseline, causes=causes))


def test_figures_that_differ_exactly_are_its_causes():
    exact = Exact(changes=("all_reduce in fp32: 3 calls -> 4",), versions=())
    lines = _failure("regressed", time=SLOWER, exact=exact, portable=("parameters: 7 -> 8 (stored in x)",))
    assert "  cause     exact figures: all_reduce in fp32: 3 calls -> 4" in lines
    assert "  cause     parameters: 7 -> 8 (stored in x)" in lines
    newer = Exact(changes=(), versions=("torch 2.14.0 -> 2.15.0",))
    assert "  cause     another version: torch 2.14.0 -> 2.15.0" in _failure("regressed", time=SLOWER, exact=newer)


def _traced(compute_ms, data_ms):
    """Return a result whose step of 100 ms is data, then computing, then host work."""
    trace = made_trace(data=(0, data_ms), update=(data_ms, 100), compute=[(data_ms, data_ms + compute_ms)], queued=None)
    return made_result(CASE, traces=(trace,))


def test_where_both_runs_were_traced_the_part_of_the_step_that_grew_is_a_cause():
    lines = _failure("regressed", time=SLOWER, result=_traced(70, 5), baseline=made_baseline(_traced(40, 4)))
    # Data grew by less than 2 % of the step, host work shrank.
    assert [line for line in lines if "traced" in line] == ["  cause     traced: compute 40.0 -> 70.0 ms a step"]
    untraced = _failure("regressed", time=SLOWER, result=_traced(70, 5))
    assert not any("traced" in line for line in untraced)


def test_a_figure_beyond_its_limit_is_told_and_the_time_that_passed_is_not():
    advised = replace(LOST, advisory=True)
    passed = replace(LOST, word="passed")
    lines = _failure("regressed", findings=(passed, LOST, advised), time=replace(SLOWER, word="passed", reasons=()))
    told = "  figure    accuracy regressed: 85.0 % against 90.0 %, -5.6% (limit 2.0 %)"
    assert [line for line in lines if "figure" in line] == [told, f"{told}, advisory"]
    assert not any("interval" in line for line in lines)


def test_a_case_that_could_not_be_judged_says_why_and_what_it_would_take():
    time = TimeVerdict(word="unresolved", effects=(STEP,), reasons=("it must slow down by more",), processes_needed=80)
    lines = _failure("unresolved", time=time)
    assert lines[:2] == [f"{CASE}: could not be judged", "  time      it must slow down by more"]
    assert "  needs     80 processes of it would show what is demanded" in lines


@pytest.mark.parametrize(
    ("word", "baseline", "head"),
    [
        (
            "new",
            made_baseline(),
            "new: nothing is stored of it (no stored run of 2-core-made holds it)",
        ),
        ("incomparable", made_baseline(incomparable=True, note="of other hardware"), "incomparable: of other hardware"),
        ("incomparable", None, "incomparable: what is stored of it cannot be compared"),
    ],
)
def test_a_case_with_nothing_to_be_held_to_says_how_to_begin(word, baseline, head):
    lines = _failure(word, baseline=baseline)
    assert lines[0] == f"{CASE}: {head}"
    assert lines[-1] == f'  accept    pytest "{NODE}" {ACCEPT}'
    assert any("baseline" in line for line in lines[1:-2]) == (baseline is None)


def test_a_note_is_told():
    assert "  note      timing not gated" in _failure("regressed", findings=(LOST,), note="timing not gated")


def test_what_does_not_train_the_same_cannot_be_accepted():
    lines = _failure("uncertified", causes=("the gradient is halved",), time=SLOWER)
    assert "not certified" in lines[0]
    assert any("the gradient is halved" in line for line in lines)
    assert lines[-1] == f'  rerun     pytest "{NODE}"'
    assert not any("accept" in line or "interval" in line for line in lines)


def test_what_does_not_hold_the_memory_that_it_must_cannot_be_accepted():
    strategy = SimpleNamespace(
        name="ddp", memory=lambda share: Footprint(parameters=20_000, gradients=40_000, optimizer=40_000)
    )
    held = figures(Case.parse(CASE), strategy, [made_account()])
    assert held.causes
    lines = _failure("mispredicted", memory=held)
    assert lines[0] == f"{CASE}: its memory is not what ddp must keep"
    assert lines[-1] == f'  rerun     pytest "{NODE}" --accounted'
    assert not any("accept" in line for line in lines)


# ------------------------------------------------------------------------------------------ the section


def _render(*outcomes, said=(), full=False):
    lines = render(outcomes, policy=named("nightly"), cost_s=64.4, said=said, accept=ACCEPT, full=full)
    return list(lines)


def _timed(word="passed", case_id=CASE, effect=STEP, **over):
    samples = (made_samples(),) * 5
    time = TimeVerdict(word=word, effects=() if effect is None else (effect,), **over)
    return _outcome(word, case_id=case_id, result=made_result(case_id, samples=samples), time=time)


def test_verdicts_are_counted_the_most_frequent_first():
    outcomes = [_outcome(word) for word in ("regressed", "passed", "new", "passed", "new", "new")]
    assert _render(*outcomes)[0] == "3 new, 2 passed, 1 regressed"


def test_what_is_new_says_how_to_hold_later_runs_to_it():
    new = [_outcome("new", baseline=made_baseline(), case_id=f"resnet18-ddp-{gpus}gpu-bs8") for gpus in (1, 2)]
    lines = _render(*new, _outcome("passed"))
    assert "no stored run of 2-core-made holds it (2 cases); to hold later runs to this one: " in " ".join(lines)
    assert ACCEPT in " ".join(lines)


def test_what_was_measured_and_what_could_be_seen_is_told():
    effects = [replace(STEP, mde=mde) for mde in (0.03, 0.05, 0.11)]
    text = " ".join(line.strip() for line in _render(*(_timed(effect=effect) for effect in effects)))
    assert "policy nightly: 15 processes of 3 cases, 64 s;" in text
    assert "a slowdown of 3.0% to 11.0%, half of them 5.0% or less" in text


def test_where_no_time_was_judged_nothing_is_said_of_it():
    assert _render(_outcome("passed"), _outcome("passed", note="timing not gated")) == ["2 passed"]


def test_what_is_odd_about_the_run_stands_above_the_table():
    lines = _render(_timed("regressed"), said=["5 of 6 cases seem slower", "the machine changed"])
    notes = [number for number, line in enumerate(lines) if line.startswith("note: ")]
    assert [lines[number] for number in notes] == ["note: 5 of 6 cases seem slower", "note: the machine changed"]
    assert max(notes) < next(number for number, line in enumerate(lines) if line.startswith("case "))


def _text(lines):
    """Return lines as one, each word once after the other, wherever they were broken."""
    return " ".join(" ".join(lines).split())


def test_only_what_is_not_plainly_passed_has_a_row_unless_all_are_asked_for():
    outcomes = [_timed(), _timed("regressed", "resnet18-zero1-1gpu-bs8")]
    outcomes.append(_outcome("new", case_id="vit-ddp-1gpu-bs8", baseline=made_baseline()))
    rows = [line.split()[0] for line in _render(*outcomes) if re.match(r"\S+-\d+gpu-", line)]
    assert rows == ["resnet18-zero1-1gpu-bs8"]
    rows = [line.split()[0] for line in _render(*outcomes, full=True) if re.match(r"\S+-\d+gpu-", line)]
    assert rows == [CASE, "resnet18-zero1-1gpu-bs8", "vit-ddp-1gpu-bs8"]
    assert not any(line.startswith("case ") for line in _render(_timed()))


def test_a_row_has_what_was_found_and_why():
    exact = Exact(changes=("all_reduce in fp32: 3 calls -> 4",), versions=())
    outcome = _timed("regressed", reasons=("same work: +5.2% of made words",))
    outcome = replace(outcome, verdict=replace(outcome.verdict, exact=exact, findings=(LOST,)))
    lines = _render(outcome)
    (row,) = [line for line in lines if line.startswith(CASE)]
    assert row.split()[:7] == [CASE, "regressed", "+5.2%", "+4.1%", "to", "+6.3%", "3.4%"]
    text = _text(lines)
    for why in ("all_reduce", "3 calls", "accuracy", "made words"):
        assert why in text
    lost = _timed("unresolved", effect=None, reasons=("no process of this run measured it",))
    lines = _render(lost)
    assert not any(line.startswith(CASE) for line in lines), "it has no figure that a row could show"
    assert f"{CASE}: no process of this run measured it" in _text(lines)


def test_a_reason_that_holds_for_many_cases_is_said_once():
    names = [f"resnet18-{strategy}-1gpu-bs8" for strategy in ("ddp", "fsdp1", "fsdp2", "zero1")]
    lines = _render(*(_timed("unresolved", name, effect=None, reasons=("its turn did not come",)) for name in names))
    assert _text(lines).count("its turn did not come") == 1
    assert "4 cases: its turn did not come" in _text(lines)


@pytest.mark.parametrize("word", ["regressed", "unresolved", "incomparable", "mispredicted", "improved"])
@pytest.mark.parametrize(
    "case_id",
    [CASE, "fasterrcnn_r18-fairscale_fsdp-4gpu-bs8", "resnet18-fairscale_fsdp-2gpu-bs8-bf16-offload-ckpt"],
)
def test_the_section_is_at_most_100_columns_wide(word, case_id):
    wide = replace(STEP, estimate=-0.123, low=-0.234, high=-0.101, mde=0.123)
    reasons = (
        "machine: +12.3% (95 % interval +10.1% to +23.4%), 20 processes against 150 of 10 stored runs",
        "the code of the reference plain and machine changed since: record the case again",
    )
    exact = Exact(changes=("all_reduce in fp32: 11,173,962 elements -> 11,173,963",), versions=())
    time_word = word if word in ("regressed", "unresolved", "improved", "incomparable") else "passed"
    outcome = _timed(time_word, case_id, wide, reasons=reasons)
    outcome = replace(outcome, verdict=replace(outcome.verdict, word=word, exact=exact, findings=(LOST,)))
    lines = _render(outcome, said=["5 of 6 cases seem slower than the same work beside them, and " * 3])
    assert max(map(len, lines)) <= 100
    # No word of it is lost by that.
    assert any(line.startswith(case_id) for line in lines)
