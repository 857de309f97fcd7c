"""How often the gate is wrong, in suites of a known truth: counts with exact bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from harness.gate import chance
from harness.gate.changes import changes_of
from harness.gate.observations import View
from harness.gate.policy import CREEP_RUNS, POLICIES, Policy
from harness.gate.timing import TimeVerdict, judge_time
from harness.proof.simulator import WORLDS, Rule, Suite, World, gate

EFFECTS = (0.02, 0.03, 0.05, 0.10)
"""Slowdowns that are planted, as shares."""
CREPT = 0.05
"""A slowdown in equal parts over all runs of a level, of which none shows alone."""
MODEL = 0.20
"""A slowdown of a model, which its plain loop has too."""
CASES = 20
"""Of a suite."""
_UNCHANGED = {f"case {number}": 0.0 for number in range(CASES)}
"""The first is the base of all speedups."""
_SLOWED = dict(zip(list(_UNCHANGED)[1:], EFFECTS, strict=False))
_CHANGES = _UNCHANGED | {case: math.log1p(effect) for case, effect in _SLOWED.items()}


@dataclass(frozen=True, slots=True)
class Count:
    """Events among independent chances."""

    events: int = 0
    of: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.events + other.events, self.of + other.of)

    @property
    def rate(self) -> float:
        """Events over chances; 0 without any."""
        return self.events / self.of if self.of else 0.0

    def bounds(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the exact bounds of the rate; each holds alone."""
        return chance.proportion(self.events, self.of, confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What became of suites of one world, judged by one policy."""

    policy: str
    world: str
    stored_runs: int
    paired: bool
    """Whether suspects are confirmed beside the accepted code."""
    reds: Count
    """Suites without a change in which a case regressed."""
    false_alarms: Count
    """Cases without a change that regressed, in those suites."""
    false_improvements: Count
    unresolved: Count
    power: dict[float, Count]
    """Slowed cases that regressed, by slowdown, in suites in which one case in five is slowed."""
    models: Count
    """Cases whose model was slowed by `MODEL`, that regressed, in the same suites."""
    crept: Count
    """Cases that became slower by `CREPT` over the level, and regressed; none where drifts are not judged."""
    coverage: dict[View, Count]
    """95 % intervals of the screen that hold the truth, in suites without a change."""
    mde: float
    """Median of what the screen calls the smallest effect that is seen, in the view of the same work."""
    processes: float
    """Of a case without a change, on average."""


def figures(seed: int, suites: int) -> Iterator[Rates]:
    """Yield the rates of each policy in each world, with a young level and an old one, alone and paired.

    Args:
        seed: of everything random.
        suites: without a change, for each; half as many have planted changes.
    """
    for policy in POLICIES.values():
        for world in WORLDS:
            for stored_runs, paired in itertools.product((1, 3, 10), (False, True)):
                if paired and not policy.agents:
                    continue
                yield rates(
                    policy,
                    world,
                    stored_runs=stored_runs,
                    paired=paired,
                    suites=suites,
                    planted=max(1, suites // 2),
                    seed=seed,
                )


def rates(
    policy: Policy,
    world: World,
    *,
    stored_runs: int,
    suites: int,
    planted: int,
    seed: int,
    paired: bool = False,
    rule: Rule = gate,
) -> Rates:
    """Return the rates of one policy in one world.

    Args:
        policy: to judge by.
        world: to draw from.
        stored_runs: of the level, of five processes each.
        suites: without a change.
        planted: suites in which each of `EFFECTS` slows a case.
        seed: of everything random.
        paired: whether the accepted code can be run beside the candidate.
        rule: what is to be proved.
    """
    reds = alarms = improvements = unresolved = models = crept = Count()
    made = partial(_suite, policy, world, stored_runs, paired)
    coverage: dict[View, Count] = {}
    power = dict.fromkeys(EFFECTS, Count())
    smallest: list[float] = []
    processes = 0
    for number in range(suites):
        suite = made((seed, 0, number), _UNCHANGED)
        # Before the confirmation, which measures again just those cases whose interval leaves out the truth.
        for verdict in judge_time(suite.cases, policy).values():
            for shown in verdict.effects:
                held = Count(shown.low <= 0 <= shown.high, 1)
                coverage[shown.view] = coverage.get(shown.view, Count()) + held
                if shown.view == "same work":
                    smallest.append(shown.mde)
        verdicts = rule(suite)
        wrong = _count(verdicts, "regressed")
        reds += Count(wrong.events > 0, 1)
        alarms += wrong
        improvements += _count(verdicts, "improved")
        unresolved += _count(verdicts, "unresolved")
        processes += sum(len(timed.new) for timed in suite.cases.values())
    model = list(_UNCHANGED)[len(EFFECTS) + 1]
    for number in range(planted):
        verdicts = rule(made((seed, 1, number), _CHANGES, models={model: math.log1p(MODEL)}))
        models += Count(verdicts[model].word == "regressed", 1)
        for case, effect in _SLOWED.items():
            power[effect] += Count(verdicts[case].word == "regressed", 1)
        if stored_runs >= CREEP_RUNS:
            creeps = "case 1"
            verdicts = rule(made((seed, 2, number), _UNCHANGED, crept={creeps: math.log1p(CREPT)}))
            crept += Count(verdicts[creeps].word == "regressed", 1)
    return Rates(
        policy=policy.name,
        world=world.name,
        stored_runs=stored_runs,
        paired=paired,
        reds=reds,
        false_alarms=alarms,
        false_improvements=improvements,
        unresolved=unresolved,
        power=power,
        models=models,
        crept=crept,
        coverage=coverage,
        mde=sorted(smallest)[len(smallest) // 2] if smallest else math.nan,
        processes=processes / (CASES * suites) if suites else math.nan,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What `compare` said of two stored runs of one world."""

    world: str
    processes: int
    """Of each case, in either run."""
    reds: Count
    """Pairs without a change of which a case is called changed."""
    false_changes: Count
    """Cases so called."""
    power: dict[float, Count]
    """Slowed cases that are called worse, by slowdown, in pairs in which some are slowed."""


def pairs(world: World, *, suites: int, planted: int, seed: int) -> Pairs:
    """Return the rates of `compare` over two runs of five processes a case, as the nightly policy stores them.

    Args:
        world: to draw from.
        suites: pairs without a change.
        planted: pairs in which each of `EFFECTS` slows a case.
        seed: of everything random.
    """
    policy = POLICIES["nightly"]
    reds = changed = Count()
    power = dict.fromkeys(EFFECTS, Count())
    for number in range(suites):
        found = changes_of(_suite(policy, world, 1, False, (seed, 3, number), _UNCHANGED).cases)
        wrong = sum(not doubts and any(one.shown for one in changes) for changes, doubts in found.values())
        reds += Count(wrong > 0, 1)
        changed += Count(wrong, len(found))
    for number in range(planted):
        found = changes_of(_suite(policy, world, 1, False, (seed, 4, number), _CHANGES).cases)
        for case, effect in _SLOWED.items():
            shown, doubts = found[case]
            power[effect] += Count(not doubts and any(one.shown and one.worse for one in shown), 1)
    return Pairs(world=world.name, processes=policy.processes, reds=reds, false_changes=changed, power=power)


def _suite(
    policy: Policy,
    world: World,
    stored_runs: int,
    paired: bool,
    seed: tuple[int, ...],
    changes: Mapping[str, float],
    crept: Mapping[str, float] | None = None,
    models: Mapping[str, float] | None = None,
) -> Suite:
    import numpy as np

    return Suite(
        random=np.random.default_rng(seed),
        world=world,
        policy=policy,
        slowed=changes,
        stored_runs=stored_runs,
        stored_processes=5,
        crept=crept or {},
        models=models or {},
        paired=paired,
    )


def _count(verdicts: Mapping[str, TimeVerdict], word: str) -> Count:
    return Count(sum(verdict.word == word for verdict in verdicts.values()), len(verdicts))
