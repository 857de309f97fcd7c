"""The verdict on a case's time: found where it changed, unresolved where that cannot be told."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import pytest

from harness.gate import chance
from harness.gate.changes import changes_of
from harness.gate.contrasts import Timed, gather
from harness.gate.observations import Observation, Process
from harness.gate.policy import CREEP_RUNS, THETA, named
from harness.gate.timing import judge_time, needs_more, screen

NIGHTLY = named("nightly")
REFERENCES = {"plain": "p", "machine": "m"}


def _process(draw, *, case=0.0, plain=0.0, kernels=0.0, spread=0.01, **over):
    """Return a process in which the case, the plain loop and the kernels are slower by some logarithm."""
    step, loop, frozen = (change + draw.gauss(0, spread) for change in (case, plain, kernels))
    views = {
        "same work": step - loop,
        "machine": step - frozen,
        "control": loop - frozen,
        "wall": step + draw.gauss(0, 0.1),
    }
    facts = {"views": {view: Observation(mean, 50, 0.01) for view, mean in views.items()}, "references": REFERENCES}
    return Process(**(facts | over))


def _suite(cases=12, *, runs=6, changed=None, accepted=None, seed=1, fresh=20, **facts):
    """Return cases of which `changed` differ in the new run by what `_process` takes, all measured afresh as well.

    Args:
        cases: how many.
        runs: of the level.
        changed: the changes by case.
        accepted: those of the accepted code run beside the new one; None runs none.
        seed: of the noise.
        fresh: processes of the confirmation.
        facts: of every process.
    """
    draw = random.Random(seed)
    changed = changed or {}

    def measured(count, change, **over):
        return tuple(_process(draw, **(facts | change | over)) for _ in range(count))

    return {
        name: Timed(
            new=measured(5, changed.get(name, {})) + measured(fresh, changed.get(name, {}), confirms=True),
            level=tuple(measured(5, {}) for _ in range(runs)),
            group="group",
            base="c0",
            beside=() if accepted is None else measured(fresh, accepted.get(name, {}), confirms=True),
        )
        for name in (f"c{number}" for number in range(cases))
    }


def _words(cases, policy=NIGHTLY):
    return {case: verdict.word for case, verdict in judge_time(cases, policy).items()}


def _others(words, *names):
    return {word for case, word in words.items() if case not in names}


def test_an_unchanged_suite_passes_and_shows_its_effects():
    verdicts = judge_time(_suite(), NIGHTLY)
    assert {verdict.word for verdict in verdicts.values()} == {"passed"}
    views = [effect.view for effect in verdicts["c1"].effects]
    assert views == ["same work", "machine", "speedup", "wall"]
    assert [effect.view for effect in verdicts["c0"].effects] == ["same work", "machine", "wall"]
    for effect in verdicts["c1"].effects:
        assert effect.low < effect.estimate < effect.high
        assert effect.mde > THETA[effect.view]
        assert (effect.stored_processes, effect.stored_runs) == (30, 6)


def test_a_slower_case_regresses_and_no_other():
    cases = _suite(changed={"c3": {"case": math.log(1.1)}})
    verdicts = judge_time(cases, NIGHTLY)
    assert verdicts["c3"].word == "regressed"
    assert _others(_words(cases), "c3") == {"passed"}
    effects = {effect.view: effect for effect in verdicts["c3"].effects}
    assert effects["same work"].estimate == pytest.approx(0.10, abs=0.02)
    assert effects["speedup"].estimate == pytest.approx(1 / 1.1 - 1, abs=0.03)
    assert (effects["same work"].better, effects["speedup"].better) == ("lower", "higher")
    assert verdicts["c3"].reasons[0].startswith("same work: +")
    assert "c3" in screen(cases).confirm


def test_a_faster_case_improves():
    cases = _suite(changed={"c3": {"case": math.log(0.9)}})
    assert _words(cases)["c3"] == "improved"
    assert _others(_words(cases), "c3") == {"passed"}


def test_a_change_that_hits_every_case_is_not_taken_for_the_machine():
    changed = {f"c{number}": {"case": math.log(1.08)} for number in range(12)}
    cases = _suite(changed=changed)
    assert set(_words(cases).values()) == {"regressed"}
    assert any("12 of 12 cases seem slower" in sentence for sentence in screen(cases).said)


def test_a_machine_that_is_slower_for_all_kinds_of_work_alike_is_no_regression():
    slower = {"case": math.log(2), "plain": math.log(2), "kernels": math.log(2)}
    verdicts = judge_time(_suite(changed={f"c{number}": slower for number in range(12)}), NIGHTLY)
    assert {verdict.word for verdict in verdicts.values()} == {"passed"}
    assert "the machine is slower" in verdicts["c1"].reasons[0]


def test_what_slows_the_case_and_its_plain_loop_alike_is_found_against_the_kernels():
    both = {"case": math.log(1.2), "plain": math.log(1.2)}
    verdict = judge_time(_suite(changed={"c3": both}), NIGHTLY)["c3"]
    assert verdict.word == "regressed"
    assert verdict.reasons[0].startswith("machine: +")


@pytest.mark.parametrize(("kernels", "model"), [(1.3, 1.2), (0.8, 1.2), (1.6, 1.4)])
def test_on_a_machine_at_another_speed_what_slows_the_case_and_its_plain_loop_alike_is_not_resolved(kernels, model):
    both = {"case": math.log(model * kernels), "plain": math.log(model * kernels), "kernels": math.log(kernels)}
    verdict = judge_time(_suite(changed={"c3": both}), NIGHTLY)["c3"]
    # No more processes would help, as all are of this machine.
    assert (verdict.word, verdict.processes_needed) == ("unresolved", None)
    said = r"machine: of a loss of \+\d+\.\d% the plain loop has \+\d+\.\d%, and .*: another machine speed"
    assert re.match(said, verdict.reasons[0])


def test_on_a_machine_at_another_speed_a_slower_case_is_found_all_the_same():
    slow = {"case": math.log(1.2 * 1.3 * 1.1), "plain": math.log(1.2 * 1.3), "kernels": math.log(1.3)}
    verdict = judge_time(_suite(changed={"c3": slow}), NIGHTLY)["c3"]
    assert verdict.word == "regressed"
    assert verdict.reasons[0].startswith("same work: +")


def test_on_a_machine_at_another_speed_the_accepted_code_beside_the_candidate_tells():
    slow = {"case": math.log(1.2 * 1.3), "plain": math.log(1.2 * 1.3), "kernels": math.log(1.3)}
    same = {"case": math.log(1.3), "plain": math.log(1.3), "kernels": math.log(1.3)}
    accepted = {f"c{number}": same for number in range(12)}
    verdict = judge_time(_suite(changed=accepted | {"c3": slow}, accepted=accepted), NIGHTLY)["c3"]
    assert (verdict.word, verdict.unpaired) == ("regressed", False)


def test_a_speedup_is_not_lost_to_a_base_whose_plain_loop_alone_moved_with_the_machine():
    speed = {kind: math.log(0.7) for kind in ("case", "plain", "kernels")}
    base = {"case": math.log(0.7 * 0.85), "plain": math.log(0.7 * 0.85), "kernels": math.log(0.7)}
    changed = {f"c{number}": speed for number in range(1, 12)} | {"c0": base}
    words = _words(_suite(changed=changed))
    assert _others(words, "c0") == {"unresolved"}


def test_a_case_that_seems_slower_since_its_reference_became_faster_is_not_resolved():
    verdict = judge_time(_suite(changed={"c3": {"plain": math.log(0.85)}}), NIGHTLY)["c3"]
    assert verdict.word == "unresolved"
    assert verdict.reasons[0].startswith("the plain loop moved -")


@pytest.mark.parametrize("lost", ["same work", "machine"])
def test_a_view_that_could_not_be_measured_any_more_does_not_pass(lost):
    cases = _suite()
    new = (
        replace(one, views={view: seen for view, seen in one.views.items() if view != lost}) for one in cases["c3"].new
    )
    cases["c3"] = replace(cases["c3"], new=tuple(new))
    verdict = judge_time(cases, NIGHTLY)["c3"]
    assert verdict.word == "unresolved"
    assert verdict.reasons[0].startswith(f"no view of {lost}")


def test_a_case_measured_again_for_another_reason_is_judged_by_that_too():
    # The base of a suspected speedup, whose own screen was unlucky enough to miss its slowdown.
    cases = _suite(changed={"c0": {"case": math.log(1.1)}})
    lucky = tuple(one for one in _suite(seed=2)["c0"].new if not one.confirms)
    cases["c0"] = replace(cases["c0"], new=lucky + tuple(one for one in cases["c0"].new if one.confirms))
    assert "c0" not in {one.case for one in screen(cases).suspects}
    assert _words(cases)["c0"] == "regressed"


def test_a_wall_time_without_any_reference_is_a_suspect_like_others():
    cases = _suite(changed={"c3": {"case": math.log(2)}})

    def blind(process):
        return replace(process, views={view: process.views[view] for view in ("wall", "same work")})

    cases["c3"] = replace(
        cases["c3"],
        new=tuple(map(blind, cases["c3"].new)),
        level=tuple(tuple(map(blind, run)) for run in cases["c3"].level),
    )
    verdict = judge_time(cases, NIGHTLY)["c3"]
    assert verdict.word == "regressed"
    assert any(reason.startswith("wall: +") for reason in verdict.reasons)


def test_a_change_below_what_counts_passes_however_clear_it_is():
    quiet = _suite(changed={"c3": {"case": math.log(1.015)}}, spread=0.0005, runs=30)
    assert _words(quiet)["c3"] == "passed"
    assert _words(_suite(changed={"c3": {"case": math.log(1.04)}}, spread=0.0005, runs=30))["c3"] == "regressed"


def test_a_case_may_allow_itself_more():
    cases = _suite(changed={"c3": {"case": math.log(1.1)}})
    cases["c3"] = replace(cases["c3"], budget=0.2)
    assert _words(cases)["c3"] == "passed"


def test_a_suspect_that_the_fresh_processes_clear_passes():
    cases = _suite(changed={"c3": {"case": math.log(1.1)}})
    clear = _suite(seed=2)["c3"].new
    cases["c3"] = replace(
        cases["c3"],
        new=tuple(one for one in cases["c3"].new if not one.confirms) + tuple(one for one in clear if one.confirms),
    )
    assert "c3" in screen(cases).confirm
    assert _words(cases)["c3"] == "passed"


def test_a_suspect_that_was_not_measured_again_is_not_resolved():
    verdict = judge_time(_suite(changed={"c3": {"case": math.log(1.1)}}, fresh=0), NIGHTLY)["c3"]
    assert (verdict.word, verdict.processes_needed) == ("unresolved", NIGHTLY.confirm_processes)


def test_without_stored_processes_a_case_is_new():
    cases = _suite(changed={"c3": {"case": 1.0}})
    cases["c3"] = replace(cases["c3"], level=())
    assert judge_time(cases, NIGHTLY)["c3"].word == "new"
    assert _others(_words(cases), "c3") == {"passed"}


def test_without_a_process_of_this_run_nothing_is_known():
    cases = _suite()
    cases["c3"] = replace(cases["c3"], new=())
    assert _words(cases)["c3"] == "unresolved"


@pytest.mark.parametrize("name", ["plain", "machine"])
def test_a_view_whose_reference_is_other_code_is_not_compared(name):
    cases = _suite()
    other = tuple(replace(one, references=REFERENCES | {name: "other"}) for one in cases["c3"].new)
    cases["c3"] = replace(cases["c3"], new=other)
    verdict = judge_time(cases, NIGHTLY)["c3"]
    assert f"reference {name} changed" in verdict.reasons[0]
    views = {effect.view for effect in verdict.effects}
    assert views == ({"machine", "speedup", "wall"} if name == "plain" else {"same work", "wall"})


def test_with_all_references_of_other_code_a_case_is_incomparable():
    cases = _suite(changed={"c3": {"case": 1.0}})
    other = tuple(replace(one, references={"plain": "x", "machine": "y"}) for one in cases["c3"].new)
    cases["c3"] = replace(cases["c3"], new=other)
    verdict = judge_time(cases, NIGHTLY)["c3"]
    assert verdict.word == "incomparable"
    assert "plain and machine changed" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("facts", "told"), [({"settled": False}, "did not settle"), ({"disturbed": ("a neighbour",)}, "a neighbour")]
)
@pytest.mark.parametrize(("share", "word"), [(0.1, "regressed"), (0.5, "unresolved")])
def test_many_disturbed_or_unsettled_processes_decide_nothing(facts, told, share, word):
    cases = _suite(changed={"c3": {"case": math.log(1.1)}})
    many = round(share * len(cases["c3"].new))
    spoilt = tuple(replace(one, **facts) if place < many else one for place, one in enumerate(cases["c3"].new))
    cases["c3"] = replace(cases["c3"], new=spoilt)
    verdict = judge_time(cases, NIGHTLY)["c3"]
    assert verdict.word == word
    assert any(told in reason for reason in verdict.reasons) == (word == "unresolved")


@pytest.mark.parametrize("run", ["first", "second"])
@pytest.mark.parametrize(
    ("facts", "told"),
    [({"settled": False}, "did not settle in their warm-up"), ({"disturbed": ("a neighbour",)}, "disturbed: a neigh")],
)
def test_between_two_stored_runs_the_processes_of_both_count_only_undisturbed(run, facts, told):
    cases = _suite(runs=1, changed={"c3": {"case": math.log(1.3)}})
    changes, doubts = changes_of(cases)["c3"]
    assert any(change.shown for change in changes)
    assert not doubts
    level, new = cases["c3"].level[0], cases["c3"].new
    spoilt = {name: tuple(replace(one, **facts) for one in seen) for name, seen in (("first", level), ("second", new))}
    own = replace(cases["c3"], **({"level": (spoilt[run],)} if run == "first" else {"new": spoilt[run]}))
    (doubt,) = changes_of(cases | {"c3": own})["c3"][1]
    count = len(spoilt[run])
    assert doubt.startswith(f"{count} of {count} processes of the {run} run ")
    assert told in doubt


def test_what_would_not_have_been_seen_does_not_pass_but_what_was_seen_is_red():
    wild = _suite(changed={"c3": {"case": math.log(1.6)}}, spread=0.15)
    words = _words(wild)
    assert words["c3"] == "regressed"
    assert _others(words, "c3") == {"unresolved"}


def test_unresolved_cases_and_their_base_are_measured_again_with_twice_the_processes():
    wild = _suite(spread=0.07, runs=20)
    more = needs_more(wild, NIGHTLY, done=0)
    assert more and set(more.values()) == {2 * NIGHTLY.confirm_processes}
    assert "c0" in more
    assert set(needs_more(wild, NIGHTLY, done=1).values()) == {4 * NIGHTLY.confirm_processes}
    assert needs_more(wild, NIGHTLY, done=NIGHTLY.max_rounds) == {}
    assert needs_more(_suite(), NIGHTLY, done=0) == {}


def test_a_case_that_no_number_of_processes_would_resolve_is_not_measured_again():
    young = _suite(runs=1, spread=0.2)
    assert {verdict.processes_needed for verdict in judge_time(young, NIGHTLY).values()} == {None}
    assert needs_more(young, NIGHTLY, done=0) == {}


def test_several_ranks_need_not_show_as_small_a_slowdown():
    assert set(_words(_suite(spread=0.05)).values()) == {"unresolved"}
    assert set(_words(_suite(spread=0.05, ranks=2)).values()) == {"passed"}


def test_a_younger_level_says_that_it_sees_less():
    def smallest(runs):
        return judge_time(_suite(runs=runs), NIGHTLY)["c1"].effects[0].mde

    assert smallest(1) > 1.2 * smallest(3) > smallest(12)


def test_the_order_of_cases_changes_nothing():
    cases = _suite(changed={"c3": {"case": math.log(1.1)}})
    turned = dict(reversed(cases.items()))
    assert judge_time(turned, NIGHTLY).keys() == cases.keys()
    for case, verdict in judge_time(turned, NIGHTLY).items():
        assert verdict.word == _words(cases)[case]


def test_given_a_correlation_a_confirmation_is_worth_less():
    alone, shared, same = (chance.above_given(2.326, 1.645, rho) for rho in (0.0, 0.5, 1.0))
    assert alone == pytest.approx(0.01, rel=1e-3)
    assert alone < shared < same
    assert same == pytest.approx(0.01 / 0.05, rel=2e-3)


def test_conditional_chances_are_what_draws_say():
    draw = random.Random(3)
    rho, over, both = 0.6, 0, 0
    for _ in range(200_000):
        first = draw.gauss(0, 1)
        second = rho * first + math.sqrt(1 - rho**2) * draw.gauss(0, 1)
        over += first > 1.645
        both += first > 1.645 and second > 2.0
    assert chance.above_given(2.0, 1.645, rho) == pytest.approx(both / over, rel=0.06)


def test_the_deviate_that_confirms_has_the_probability_asked_for():
    z = chance.clear(1.6, 0.5, 0.01)
    assert chance.above_given(z, 1.6, 0.5) == pytest.approx(0.01, rel=1e-4)
    assert chance.above_given(chance.clear(1e9, 0.3, 0.01), 1e9, 0.3) == pytest.approx(0.01, rel=1e-4)


def test_student_and_normal_deviates_agree():
    assert chance.student(0.975, 10) == pytest.approx(2.228, abs=1e-3)
    assert chance.as_normal(chance.student(chance.below(2.0), 7), 7) == pytest.approx(2.0)
    assert chance.as_normal(-chance.student(chance.below(2.0), 7), 7) == pytest.approx(-2.0)
    assert chance.as_normal(0.0, 7) == 0.0


def test_events_by_chance_are_exceeded_once_in_a_thousand():
    assert chance.most_of(20, 0.05) == 5
    assert chance.most_of(0, 0.05) == 0


def test_a_budget_buys_processes_and_an_unknown_policy_is_named():
    assert NIGHTLY.within(60.0, 5.5).processes == 10
    assert NIGHTLY.within(1.0, 5.5).processes == 1
    for wrong in ((0.0, 5.5), (60.0, 0.0), (math.nan, 1.0)):
        with pytest.raises(Exception, match="buys nothing"):
            NIGHTLY.within(*wrong)
    with pytest.raises(Exception, match="did you mean 'nightly'"):
        named("nightli")


def test_beside_the_accepted_code_a_slowdown_of_both_is_no_regression_and_is_told():
    drifted = {f"c{number}": {"case": math.log(1.15)} for number in range(12)}
    alone = judge_time(_suite(changed=drifted), NIGHTLY)["c3"]
    assert alone.word == "regressed" and alone.unpaired
    paired = judge_time(_suite(changed=drifted, accepted=drifted), NIGHTLY)["c3"]
    assert paired.word == "passed" and not paired.unpaired
    assert "so is the accepted code beside it" in paired.reasons[0]


def test_beside_the_accepted_code_the_candidate_alone_regresses():
    verdict = judge_time(_suite(changed={"c3": {"case": math.log(1.15)}}, accepted={}), NIGHTLY)["c3"]
    assert verdict.word == "regressed" and not verdict.unpaired
    effect = next(one for one in verdict.effects if one.view == "same work")
    assert effect.paired and effect.low < 0.15 < effect.high
    assert "20 processes against 20 of the accepted code beside them" in verdict.reasons[0]


def test_accepted_code_with_other_references_is_no_pair():
    suite = _suite(
        changed={"c3": {"case": math.log(1.15)}}, accepted={"c3": {"references": {"plain": "q", "machine": "n"}}}
    )
    verdict = judge_time(suite, NIGHTLY)["c3"]
    assert verdict.word == "regressed" and verdict.unpaired


def test_a_young_level_sees_more_beside_the_accepted_code():
    change = {"c3": {"case": math.log(1.15)}}
    alone, paired = (
        next(one for one in judge_time(suite, NIGHTLY)["c3"].effects if one.view == "same work")
        for suite in (_suite(runs=1, changed=change), _suite(runs=1, changed=change, accepted={}))
    )
    assert paired.mde < alone.mde


def test_more_agents_leave_less_of_an_agent_in_a_pair():
    seen = []
    for agents in (1, 4):
        suite = _suite(accepted={}, spread=0.002)
        spread = {
            name: replace(
                timed,
                new=tuple(replace(one, agent=place % agents) for place, one in enumerate(timed.new)),
                beside=tuple(replace(one, agent=place % agents) for place, one in enumerate(timed.beside)),
            )
            for name, timed in suite.items()
        }
        seen.append(gather(spread)["c3"].fresh["same work"].shared)
    assert seen[1] == pytest.approx(seen[0] / 4)


def _creeping(total, runs=8):
    """Return a suite in which one case became slower by so much over its level and this run, in equal parts."""
    suite, draw = _suite(runs=runs, fresh=0), random.Random(3)
    case = suite["c3"]
    level = tuple(
        tuple(_process(draw, case=math.log1p(total) * (runs - ago) / runs) for _ in range(5))
        for ago in range(1, runs + 1)
    )
    new = tuple(_process(draw, case=math.log1p(total)) for _ in range(5))
    return suite | {"c3": replace(case, level=level, new=new)}


def test_what_creeps_from_run_to_run_regresses_once_its_drift_is_no_chance():
    suite = _creeping(0.08)
    suite = {name: replace(one, level=one.level) for name, one in suite.items()}
    verdict = judge_time(suite, replace(NIGHTLY, sees_one=1.0))["c3"]
    assert verdict.word in ("regressed", "unresolved")
    crept = gather(suite)["c3"].crept["same work"]
    assert crept.loss == pytest.approx(math.log1p(0.08), abs=0.03)
    assert crept.runs == 8


def test_a_level_without_a_drift_has_not_crept():
    words = {one.word for one in judge_time(_creeping(0.0), replace(NIGHTLY, sees_one=1.0)).values()}
    assert words == {"passed"}


def test_the_drift_of_a_young_level_is_not_judged():
    assert not gather(_suite(runs=CREEP_RUNS - 1))["c3"].crept
