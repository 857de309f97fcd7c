"""The time of a run's cases: a screen of all, a confirmation of suspects alone, and a verdict on each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.case import Case
from harness.gate.policy import LEAST_SCREEN_S, named
from harness.running import sampler as samplers
from harness.running import timekeeper as timekeepers
from harness.running.accepted import NoAcceptedCode
from harness.running.pipeline import reference_of
from harness.running.timekeeper import Timekeeper
from tests.fake_ranks import WALL_S, Clock, FakeRanks
from tests.made import made_samples

BASE = Case(model="net", strategy="ddp", gpu_count=1, batch_size=8)
CASES = [BASE, *(replace(BASE, strategy=name) for name in ("fsdp1", "fsdp2", "zero1", "zero2", "zero3"))]
SLOWED = CASES[3]
NIGHTLY, PR = named("nightly"), named("pr")
LEVELS = FakeRanks(seed=7).level(CASES)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only launches move, so that no machine is too slow for a policy's seconds."""
    clock = Clock()
    monkeypatch.setattr(samplers, "time", clock)
    monkeypatch.setattr(timekeepers, "time", clock)
    return clock


@pytest.fixture
def judged(clock):
    """Return a function that measures and judges cases of fake ranks; and returns the ranks and what was found."""

    def run(levels=LEVELS, *, policy=NIGHTLY, budget_s=None, beside=None, kept=(), **ranks):
        fake = FakeRanks(clock=clock, **ranks)
        accepted = beside and beside.sampler()

        def of(case):
            if accepted is None:
                raise NoAcceptedCode("nobody has it")
            return accepted

        keeper = Timekeeper(
            sampler=fake.sampler(),
            policy=policy,
            base_of=reference_of,
            accepted=of,
            budget_s=budget_s,
            certified=lambda case: case in kept,
        )
        keeper.run(levels)
        return fake, keeper

    return run


def _words(keeper, cases=CASES):
    return [keeper.verdict(case).word for case in cases]


def _counts(keeper, stage, cases=CASES):
    return [len(keeper.sampler.of(case, stage)) for case in cases]


def test_unchanged_cases_pass_by_the_screen_alone(judged):
    ranks, keeper = judged()
    assert _words(keeper) == ["passed"] * len(CASES)
    assert _counts(keeper, "screen") == [NIGHTLY.processes] * len(CASES)
    assert {over["sampled_s"] for _, title, over in ranks.asked if title.startswith("screen")} == {NIGHTLY.rounds_s}
    assert keeper.said == ()


def test_a_suspect_alone_is_confirmed_and_regresses(judged):
    ranks, keeper = judged(slower={SLOWED: 1.2})
    confirmed = dict(zip(CASES, _counts(keeper, "confirm"), strict=True))
    # With it the base of its speedup, whose processes must be of the same minutes.
    assert confirmed == dict.fromkeys(CASES, 0) | dict.fromkeys([BASE, SLOWED], NIGHTLY.confirm_processes)
    assert _words(keeper) == ["regressed" if case == SLOWED else "passed" for case in CASES]
    effect = next(one for one in keeper.verdict(SLOWED).effects if one.view == "same work")
    assert effect.low < 0.2 < effect.high
    assert effect.new_processes == NIGHTLY.confirm_processes
    assert any(reason.startswith("same work: +") for reason in keeper.verdict(SLOWED).reasons)
    # Screened first, all of them: a suspicion is of the whole run.
    stages = [title.partition(" ")[0] for _, title, _ in ranks.asked]
    assert stages == sorted(stages, reverse=True)


def test_a_case_that_got_faster_is_improved(judged):
    assert judged(slower={SLOWED: 1 / 1.2})[1].verdict(SLOWED).word == "improved"


def test_what_was_slow_only_in_the_screen_is_not_red(judged, monkeypatch):
    """As if something had disturbed those processes: the fresh ones alone decide."""
    plain = FakeRanks.launch

    def launch(self, case, title, **over):
        self.slower = {SLOWED: 1.2} if title.startswith("screen") else {}
        return plain(self, case, title, **over)

    monkeypatch.setattr(FakeRanks, "launch", launch)
    _, keeper = judged()
    assert len(keeper.sampler.of(SLOWED, "confirm")) >= NIGHTLY.confirm_processes
    # Processes that differ so much within a run may be too noisy to pass.
    assert keeper.verdict(SLOWED).word in ("passed", "unresolved")


def test_a_case_without_a_level_is_new_and_is_sampled_for_the_next_run(judged):
    _, keeper = judged(LEVELS | {SLOWED: []}, slower={SLOWED: 9.0})
    assert _words(keeper) == ["new" if case == SLOWED else "passed" for case in CASES]
    assert len(keeper.sampler.of(SLOWED)) == NIGHTLY.processes


def test_nothing_to_judge_takes_nothing(judged):
    ranks, keeper = judged({})
    assert (ranks.asked, keeper.verdicts, keeper.said) == ([], {}, ())
    assert keeper.verdict(BASE) is None


def test_a_case_of_no_level_in_this_run_has_no_verdict_on_its_time(judged):
    _, keeper = judged({case: LEVELS[case] for case in CASES[:2]})
    assert keeper.verdict(SLOWED) is None


def test_cases_that_were_not_reached_in_time_are_unresolved_and_say_what_would_help(judged):
    # Begun at 0 and 2 s; at 4 s it is too late.
    ranks, keeper = judged(policy=replace(PR, screen_s=3.0))
    reached = {*ranks.cases}
    assert len(reached) == 2
    for case in CASES:
        verdict = keeper.verdict(case)
        if case in reached:
            assert "turn did not come" not in " ".join(verdict.reasons)
            continue
        assert verdict.word == "unresolved"
        assert verdict.reasons == (
            "its turn did not come within the 3 s of policy pr: name fewer cases, or give --gate-budget",
        )


@pytest.mark.parametrize(("missing", "screen_s"), [(0, 120.0), (1, 117.0), (len(CASES), 120.0 - 3.0 * len(CASES))])
def test_each_certificate_that_is_to_be_made_takes_from_the_screen(judged, monkeypatch, missing, screen_s):
    monkeypatch.setattr("harness.running.timekeeper.LEAST_SCREEN_S", 1.0)
    _, keeper = judged(policy=PR, kept=CASES[missing:])
    assert keeper._screen_s == screen_s


def test_something_is_left_to_the_screen_however_many_certificates_are_to_be_made(judged):
    _, keeper = judged(policy=replace(PR, screen_s=20.0))
    assert keeper._screen_s == LEAST_SCREEN_S


def test_suspects_of_a_screen_that_has_an_end_are_confirmed_as_far_as_half_its_time_goes(judged):
    # All are suspect; a process takes 2 s, so that 8 of 30 fit into 15 s, in passes over all.
    _, keeper = judged(policy=replace(PR, screen_s=30.0), kept=CASES, slower=dict.fromkeys(CASES, 1.5))
    confirmed = _counts(keeper, "confirm")
    assert sum(confirmed) == 8
    assert set(confirmed) == {1, 2}


def test_suspects_that_no_confirmation_came_to_are_unresolved(judged):
    _, keeper = judged(policy=replace(PR, screen_s=16.0), kept=CASES, slower=dict.fromkeys(CASES, 1.5))
    words = dict(zip(CASES, _words(keeper), strict=True))
    for case in CASES:
        if not keeper.sampler.of(case, "confirm"):
            assert words[case] == "unresolved"
    assert "unresolved" in words.values()


def test_a_case_that_could_not_be_sampled_is_unresolved_with_why_and_the_others_are_judged(judged):
    _, keeper = judged(failing=[SLOWED])
    verdict = keeper.verdict(SLOWED)
    assert verdict.word == "unresolved"
    assert verdict.reasons == (
        f"it could not be timed beside its references: {SLOWED}: rank 0 was killed by SIGKILL during train",
    )
    assert _words(keeper, [case for case in CASES if case != SLOWED]) == ["passed"] * (len(CASES) - 1)


def test_without_the_base_of_its_speedup_a_case_is_judged_all_the_same(judged):
    _, keeper = judged(failing=[BASE], slower={SLOWED: 1.2})
    assert keeper.verdict(SLOWED).word == "regressed"
    assert keeper.verdict(BASE).word == "unresolved"
    assert {effect.view for effect in keeper.verdict(SLOWED).effects} == {"same work", "machine", "wall"}


@pytest.mark.parametrize("policy", [PR, NIGHTLY], ids=lambda policy: policy.name)
@pytest.mark.parametrize(("budget_s", "processes"), [(1.0, 1), (4 * WALL_S, 4), (9 * WALL_S + 1, 9)])
def test_a_budget_buys_as_many_processes_of_each_case_as_it_pays_for(judged, policy, budget_s, processes):
    # The seconds of the policy do not end what a budget was given for.
    _, keeper = judged(policy=replace(policy, screen_s=3.0, again_s=0.0), budget_s=budget_s)
    assert _counts(keeper, "screen") == [processes] * len(CASES)


def test_a_suspect_is_confirmed_beyond_the_budget(judged):
    _, keeper = judged(budget_s=5 * WALL_S, slower={SLOWED: 1.2})
    assert len(keeper.sampler.of(SLOWED, "confirm")) == NIGHTLY.confirm_processes
    assert keeper.verdict(SLOWED).word == "regressed"


NOISY = {"spread": 0.06}
NOISY_LEVELS = FakeRanks(seed=7, **NOISY).level(CASES, processes=20)
"""So well known that what is unresolved is this run's to mend."""


def test_what_is_unresolved_is_measured_again_with_twice_the_processes_each_time(judged):
    _, once = judged(NOISY_LEVELS, policy=replace(NIGHTLY, max_rounds=0), **NOISY)
    unresolved = [case for case in CASES if once.verdict(case).word == "unresolved"]
    assert unresolved
    _, keeper = judged(NOISY_LEVELS, policy=replace(NIGHTLY, max_rounds=1, again_s=1e6), **NOISY)
    for case in unresolved:
        extra = len(keeper.sampler.of(case, "confirm")) - len(once.sampler.of(case, "confirm"))
        assert extra == 2 * NIGHTLY.confirm_processes
        before, after = (one.verdict(case).effects[0].mde for one in (once, keeper))
        assert after < before


def test_measuring_again_ends_with_the_policys_seconds(judged):
    _, never = judged(NOISY_LEVELS, policy=replace(NIGHTLY, again_s=0.0), **NOISY)
    _, once = judged(NOISY_LEVELS, policy=replace(NIGHTLY, max_rounds=0), **NOISY)
    assert _counts(never, "confirm") == _counts(once, "confirm")
    unresolved = next(one for case in CASES if (one := never.verdict(case)).word == "unresolved")
    assert unresolved.processes_needed is None or unresolved.processes_needed > 0
    # One more is begun while there is time.
    _, short = judged(NOISY_LEVELS, policy=replace(NIGHTLY, again_s=WALL_S / 2), **NOISY)
    assert sum(_counts(short, "confirm")) == sum(_counts(never, "confirm")) + 1


def test_what_is_odd_about_the_run_as_a_whole_is_said(judged):
    _, keeper = judged(slower=dict.fromkeys(CASES[1:], 1.2))
    assert keeper.said
    assert keeper.said[0].startswith("5 of 6 cases seem slower than the same work beside them")


def test_a_speedup_is_told_by_processes_alone(judged):
    _, keeper = judged()
    two = replace(BASE, gpu_count=2)
    assert keeper.speedup(two) is None, "it was not measured"
    keeper.sampler.taken[BASE] = [made_samples(), made_samples()]
    keeper.sampler.taken[two] = [made_samples(slower=1.25, ranks=2)]
    assert keeper.speedup(two) == pytest.approx(2 / 1.25)
    assert keeper.speedup(BASE) == pytest.approx(1.0)


def test_a_suspect_is_confirmed_beside_the_accepted_code(judged):
    theirs = FakeRanks(seed=5)
    _, keeper = judged(slower={SLOWED: 1.2}, beside=theirs)
    verdict = keeper.verdict(SLOWED)
    assert verdict.word == "regressed" and not verdict.unpaired
    assert len(keeper.beside(SLOWED)) == NIGHTLY.confirm_processes
    assert keeper.beside(CASES[1]) == ()
    assert len(theirs.renewed) == NIGHTLY.agents


def test_what_slowed_the_accepted_code_too_is_no_regression(judged):
    theirs = FakeRanks(seed=5, slower={SLOWED: 1.2})
    _, keeper = judged(slower={SLOWED: 1.2}, beside=theirs)
    assert keeper.verdict(SLOWED).word == "passed"


@pytest.mark.parametrize("beside", [None, FakeRanks(failing=[SLOWED, BASE])], ids=["none", "fails"])
def test_without_the_accepted_code_a_suspect_is_confirmed_alone_and_it_is_said(judged, beside):
    _, keeper = judged(slower={SLOWED: 1.2}, beside=beside)
    verdict = keeper.verdict(SLOWED)
    assert verdict.word == "regressed" and verdict.unpaired
    assert any(line.startswith("unpaired: ") for line in keeper.said)


def test_policy_pr_does_not_ask_for_the_accepted_code(judged):
    theirs = FakeRanks(seed=5)
    _, keeper = judged(slower={SLOWED: 3.0}, beside=theirs, policy=PR)
    assert keeper.verdict(SLOWED).word == "regressed" and theirs.asked == []
