"""The answer of a run in a few lines: what got worse and why, what to take, and the commands to go on with."""

from __future__ import annotations

import pytest

from harness.case import Case
from harness.report import answer
from tests.made_runs import made_outcome, made_run, node

GOOD, BAD = "resnet18-ddp-2gpu-bs8", "resnet18-fsdp2-2gpu-bs8"


def _text(run):
    return " ".join(" ".join(answer.render(run)).split())


def test_a_run_without_a_loss_says_so_first():
    lines = list(answer.render(made_run(made_outcome(GOOD), made_outcome(BAD, "unresolved"))))
    assert lines[0] == "nothing got worse: 1 passed, 1 unresolved"


def test_what_got_worse_is_named_with_its_first_reason():
    run = made_run(made_outcome(GOOD), made_outcome(BAD, "regressed"), made_outcome("vit-ddp-1gpu-bs8", "uncertified"))
    text = _text(run)
    assert text.startswith("2 of 3 cases got worse or failed: 1 passed, 1 regressed, 1 uncertified")
    assert f"{BAD}: regressed: same work: +5.2% (95 % interval" in text
    assert "vit-ddp-1gpu-bs8: uncertified: clipping: to a norm of 1" in text


def test_what_fails_because_it_could_not_be_judged_is_named_too():
    run = made_run(made_outcome(GOOD), made_outcome(BAD, "new"), failed={node(BAD): "new: nothing is stored of it"})
    assert _text(run).startswith("1 of 2 cases got worse or failed: 1 passed, 1 new")


def test_what_did_not_run_is_named_with_what_it_said():
    run = made_run(made_outcome(GOOD), failed={node(BAD): f"{BAD}: rank 1 of 2 died\nmore"})
    assert f" {BAD}: rank 1 of 2 died" in _text(run)
    assert f"{BAD}: {BAD}" not in _text(run)
    assert "1 of 2 cases got worse or failed: 1 passed, 1 failed to run" in _text(run)


def test_a_run_that_was_interrupted_says_so_and_how_to_run_it_whole():
    run = made_run(made_outcome(GOOD), exit_code=2)
    assert _text(run).startswith("interrupted: nothing got worse so far")
    assert answer.next_steps(run, reported=True) == [("run it whole", "pytest benches")]


def test_an_interrupted_run_without_a_case_of_the_suite_has_nothing_to_run_whole():
    assert answer.next_steps(made_run(exit_code=2), reported=False) == []


def test_more_than_a_few_are_counted():
    bad = [made_outcome(f"resnet18-fsdp2-1gpu-bs{1 << n}", "regressed") for n in range(8)]
    lines = list(answer.render(made_run(*bad)))
    assert sum(line.startswith("  resnet18-fsdp2") for line in lines) == 5
    assert "  and 3 more, each told above with its cause" in lines


def test_each_model_has_its_fastest_and_leanest_on_the_most_gpus_with_cores_of_their_own():
    outcomes = [
        made_outcome("resnet18-ddp-1gpu-bs8", step_s=0.1),
        made_outcome("resnet18-zero1-1gpu-bs8", step_s=0.15),
        made_outcome(GOOD, step_s=0.2),
        made_outcome(BAD, step_s=0.3),
    ]
    text = _text(made_run(*outcomes))
    assert "resnet18 on digits, 2 GPUs, global batch 16 fastest: ddp at 2 GPUs, 200.0 ms a step; fsdp2" in text
    assert "1 GPU," not in text


def test_one_strategy_alone_is_no_choice():
    assert answer.advices(made_run(made_outcome(GOOD))) == []


@pytest.mark.parametrize(
    ("words", "purposes"),
    [
        (("passed",), ["charts and every figure, as a page"]),
        (("new",), ["hold later runs to this one", "charts and every figure, as a page"]),
        (("unresolved",), ["measure longer, to judge the rest", "charts and every figure, as a page"]),
    ],
)
def test_what_to_do_next_follows_from_the_verdicts(words, purposes):
    run = made_run(*(made_outcome(GOOD, word) for word in words))
    assert [purpose for purpose, _ in answer.next_steps(run, reported=False)] == purposes
    assert [purpose for purpose, _ in answer.next_steps(run, reported=True)] == purposes[:-1]


def test_a_loss_is_looked_at_again_before_it_is_accepted():
    again = f'pytest "{node(BAD)}" --seeds=3'
    run = made_run(made_outcome(BAD, "regressed"), again={node(BAD): again})
    steps = answer.next_steps(run, reported=True)
    assert [command for _, command in steps] == [f"{again} --benchmark-compare", f"{again} --benchmark-save=accepted"]
    several = made_run(made_outcome(BAD, "regressed"), failed={node(GOOD): "died"}, command="pytest benches --seeds 3")
    commands = [command for _, command in answer.next_steps(several, reported=True)]
    assert commands[0] == "pytest benches --seeds 3 --lf --benchmark-compare"


def test_a_command_is_one_line_however_narrow_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = list(answer.commands([("do", "pytest " + "x" * 90)]))
    assert lines == ["do:", "    pytest " + "x" * 90]


def test_a_case_that_found_no_room_is_counted():
    run = made_run(made_outcome(GOOD), out_of_memory={Case.parse(BAD): "no room"})
    assert _text(run).startswith("nothing got worse: 1 passed, 1 out of memory")
