"""The page on the gate's error rates, as `docs/gate.md` has it: simulated, with exact bounds, held to the goals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tabulate import tabulate

from harness.gate.policy import CREEP_RUNS, FALSE_ALARMS_OF_CASE
from harness.proof.rates import CASES, CREPT, EFFECTS, MODEL, Count, Pairs, Rates, figures, pairs
from harness.proof.simulator import WORLDS, World
from harness.stored.writing import whole

_GOAL_POWER = {("nightly", 0.03): 0.75, ("nightly", 0.05): 0.99, ("release", 0.03): 0.95}
"""Of one rank, by policy and slowdown."""


def write(path: Path, *, suites: int, seed: int = 0) -> None:
    """Write the page.

    Args:
        path: where to.
        suites: without a change, of each kind; 40 ms each on one core.
        seed: of everything random.
    """
    path.parent.mkdir(exist_ok=True)
    compared = [pairs(world, suites=suites, planted=max(1, suites // 2), seed=seed) for world in WORLDS]
    text = "\n".join(page(list(figures(seed, suites)), compared, suites=suites, seed=seed)) + "\n"
    whole(path, text.encode())


def page(found: list[Rates], compared: Sequence[Pairs], *, suites: int, seed: int) -> Iterator[str]:
    """Yield the page's lines, in Markdown.

    Args:
        found: the rates of each policy in each world.
        compared: those of `compare` in each world.
        suites: as they were made with.
        seed: the same.
    """
    yield "# The error rates of the time layer"
    yield ""
    yield (
        f"Made by `python -m harness proof --suites {suites}` (seed {seed}): simulated suites of {CASES} cases whose "
        "truth is known are judged by the very functions that judge measured ones. Between brackets: exact bounds (95 "
        "%, Clopper and Pearson). How the recorded runs, which the worlds are fitted to, and the rules of "
        "other tools compare: [gate_rules.md](gate_rules.md)."
    )
    yield ""
    yield from (f"- *{world.name}*: {_world(world)}" for world in WORLDS)
    yield ""
    yield (
        "Stored: runs of the level, of five processes each; paired: suspects are confirmed beside the accepted code. "
        f"Creep: {CREPT:.0%} slower in equal parts over the level, judged from {CREEP_RUNS} runs on. Sees: the "
        f"smallest effect that a case says it sees. Model: a case whose model is {MODEL:.0%} slower, and its plain "
        "loop with it, so that the kernels alone tell."
    )
    yield ""
    head = ["policy", "world", "stored", "false alarms a case", "red runs", *(f"finds {e:.0%}" for e in EFFECTS)]
    head += [f"model {MODEL:.0%}", f"creep of {CREPT:.0%}"]
    rows = [_row(one) for one in found]
    yield from tabulate(rows, [*head, "sees", "unresolved", "processes"], tablefmt="github").splitlines()
    yield ""
    yield "The 95 % intervals of the screen hold the truth in so many cases:"
    yield ""
    views = ["same work", "machine", "speedup", "wall"]
    covered = [
        [
            one.policy,
            one.world,
            _stored(one),
            *(_share(one.coverage[view]) for view in views if view in one.coverage),
        ]
        for one in found
    ]
    yield from tabulate(covered, ["policy", "world", "stored", *views], tablefmt="github").splitlines()
    yield ""
    yield (
        "`python -m harness compare` tests two stored runs once, without a screen, and calls no case changed whose "
        f"frozen references moved ({compared[0].processes} processes of each case in either run):"
    )
    yield ""
    head = ["world", "called changed, a case", "pairs of runs with one", *(f"finds {e:.0%}" for e in EFFECTS)]
    told = [
        [one.world, _share(one.false_changes), _share(one.reds), *(f"{one.power[e].rate:.0%}" for e in EFFECTS)]
        for one in compared
    ]
    yield from tabulate(told, head, tablefmt="github").splitlines()
    yield ""
    yield "Held to the goals:"
    yield ""
    yield from (f"- {line}" for line in _goals(found))


def _world(world: World) -> str:
    parts = [f"rounds scatter by {world.rounds:.0%}, processes by {world.process:.1%}, runs by {world.run:.1%}"]
    if world.slow:
        parts.append(f"{world.slow:.0%} of processes have a stretch that differs by {world.stretch:.0%}")
    if world.other:
        parts.append(
            f"the judged run's kernels at another speed, by {world.other:.0%}, and each plain loop by another "
            f"{world.unlike:.0%} of that"
        )
    return f"{', '.join(parts)}; Student's t with {world.tail:g} degrees of freedom; {world.ranks} rank(s)"


def _row(one: Rates) -> list[str]:
    power = [f"{one.power[effect].rate:.0%}" for effect in EFFECTS]
    return [
        one.policy,
        one.world,
        _stored(one),
        _share(one.false_alarms),
        _share(one.reds),
        *power,
        f"{one.models.rate:.0%}",
        f"{one.crept.rate:.0%}" if one.crept.of else "n/a",
        f"{one.mde:.1%}",
        f"{one.unresolved.rate:.0%}",
        f"{one.processes:.1f}",
    ]


def _stored(one: Rates) -> str:
    return f"{one.stored_runs}, paired" if one.paired else str(one.stored_runs)


def _share(count: Count) -> str:
    low, high = count.bounds(0.975)
    return f"{_percent(count.rate)} ({_percent(low)} to {_percent(high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _goals(found: Sequence[Rates]) -> Iterator[str]:
    yield _alarms("all rows together", sum((one.false_alarms for one in found), Count()))
    old = [one for one in found if one.stored_runs == max(other.stored_runs for other in found)]
    for one in old:
        yield _alarms(f"{one.policy}, {one.world}, stored {_stored(one)}", one.false_alarms)
    for one in old:
        for (policy, effect), goal in _GOAL_POWER.items():
            if one.policy == policy and one.world == WORLDS[0].name:
                power = one.power[effect]
                word = "reached" if power.rate >= goal else "missed"
                where = f"{policy}, {one.world}, stored {_stored(one)}"
                yield f"{goal:.0%} of {effect:.0%} found, {where}: {word} ({power.events} of {power.of})"


def _alarms(where: str, seen: Count) -> str:
    low, high = seen.bounds()
    word = "shown" if high <= FALSE_ALARMS_OF_CASE else "missed" if low > FALSE_ALARMS_OF_CASE else "not shown"
    return (
        f"false alarms of at most {_percent(FALSE_ALARMS_OF_CASE)} a case, {where}: {word} "
        f"({seen.events} in {seen.of:,}, at most {_percent(high)} with 95 % confidence)"
    )
