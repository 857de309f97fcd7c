"""Suites of cases with a known truth, which the gate judges as it judges measured ones: how often is it wrong?

Rounds are drawn, as logarithms, from what was seen in 47 processes of an unchanged step on a machine with two cores
(`gate_runs`). Of log(step / the same step) single rounds scatter by 13 to 15 %, white and all but normal; processes by
.7 % beside that. The step against kernels scatters as much in a round, and by 2.8 % between processes. `QUIET` is
that; `BUSY` has more of a process's own, slow stretches and longer tails; `SHARED` is two ranks on two cores.
`ELSEWHERE` is what one evening showed: the machine took 1.7 times as long as when the level was stored, and some models
more so than the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.gate.contrasts import Timed
from harness.gate.observations import Observation, Process, View
from harness.gate.policy import Policy
from harness.gate.timing import TimeVerdict, judge_time, needs_more, screen

if TYPE_CHECKING:
    import numpy as np

    _Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
    """What a run does to each case against the same work, to that against the kernels, and to the kernels."""

ROUND_S = 0.08
"""Of the recorded step, its twin and two kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """How much unchanged code varies; standard deviations of logarithms."""

    name: str
    rounds: float
    """Of the case against the same work, single rounds."""
    process: float
    run: float = 0.003
    kernels: float = 0.022
    """Of the same work against the kernels, processes."""
    kernels_run: float = 0.005
    tail: float = 30.0
    """Degrees of freedom of Student's t, from which rounds and processes are drawn."""
    slow: float = 0.0
    """The share of processes that have a stretch in which rounds are slower, or faster, than the rest."""
    stretch: float = 0.0
    """By how much."""
    ranks: int = 1
    other: float = 0.0
    """By how much the kernels of the judged run are slower, or faster, than those of the stored ones."""
    unlike: float = 0.0
    """What part of that the same work of each case has beside it."""


QUIET = World(name="quiet", rounds=0.14, process=0.007)
BUSY = World(name="busy", rounds=0.16, process=0.015, tail=5, slow=0.2, stretch=0.10)
SHARED = World(
    name="two ranks on two cores", rounds=0.20, process=0.06, kernels=0.04, tail=8, slow=0.2, stretch=0.15, ranks=2
)
ELSEWHERE = replace(QUIET, name="another machine speed", other=0.4, unlike=0.4)
WORLDS = (QUIET, BUSY, SHARED, ELSEWHERE)


@dataclass(kw_only=True)
class Suite:
    """Cases of one world, some slowed down in the run that is judged."""

    random: np.random.Generator
    world: World
    policy: Policy
    slowed: Mapping[str, float]
    """The true change of each case's time, as a logarithm; 0 for unchanged ones."""
    stored_runs: int
    stored_processes: int
    crept: Mapping[str, float] = field(default_factory=dict)
    """What cases became slower by since the first run of the level, in equal parts, as a logarithm."""
    models: Mapping[str, float] = field(default_factory=dict)
    """What the model of each case became slower by, which its plain loop runs too, as a logarithm."""
    paired: bool = False
    """Whether the accepted code can be run beside the candidate, if the policy asks for it."""
    cases: dict[str, Timed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = list(self.slowed)
        self._agents = 0
        self._wild = self.random.lognormal(0, 0.25, len(names))
        self._day = 0 * self._wild, 0.0
        rounds = self._rounds(self.policy.rounds_s)
        history = [
            self._processes(
                names, self.stored_processes, rounds, self._run(len(names)), self._then(ago), confirms=False
            )
            for ago in range(1, self.stored_runs + 1)
        ]
        if self.world.other:
            speed = self.random.normal(0, self.world.other)
            self._day = speed * self.random.normal(0, self.world.unlike, len(names)), speed
        self._state = self._run(len(names))
        new = self._processes(
            names, self.policy.processes, rounds, self._state, self.slowed, confirms=False, models=self.models
        )
        self.cases = {
            name: Timed(
                new=new[name],
                level=tuple(run[name] for run in history),
                group=self.world.name,
                base=names[0],
            )
            for name in names
        }

    def _then(self, ago: int) -> dict[str, float]:
        """Return how much faster each case was so many runs ago than it is now without a change."""
        return {name: -drift * ago / self.stored_runs for name, drift in self.crept.items()}

    def measure(self, more: Mapping[str, int]) -> None:
        """Add fresh processes of some cases to what was measured."""
        agents = self.policy.agents if self.paired else 0
        for count in set(more.values()):
            wanted = [name for name in self.cases if more.get(name) == count]
            if not agents:
                self._add(wanted, count, self._state)
            for agent in range(agents):
                part = count * (agent + 1) // agents - count * agent // agents
                # Whatever runs differ by is taken for the agents': the worst that pairing can meet.
                self._add(wanted, part, self._run(len(self.slowed)), beside=self._run(len(self.slowed)))

    def _add(self, names: list[str], count: int, run: _Drawn, *, beside: _Drawn | None = None) -> None:
        rounds = self._rounds(self.policy.confirm_rounds_s)
        self._agents += 1
        fresh = self._processes(names, count, rounds, run, self.slowed, confirms=True, models=self.models)
        # The accepted code is that of the run that began the level.
        began = self._then(self.stored_runs)
        other = self._processes(names, count, rounds, beside, began, confirms=True) if beside else {}
        for name in names:
            known = self.cases[name]
            self.cases[name] = replace(known, new=known.new + fresh[name], beside=known.beside + other.get(name, ()))

    @staticmethod
    def _rounds(seconds: float) -> int:
        return max(2, round(seconds / ROUND_S))

    def _run(self, count: int) -> _Drawn:
        """Draw what a run does: half of it to all cases alike."""
        own = self.random.normal(0, self.world.run, count) + self.random.normal(0, self.world.run)
        kernels = self.random.normal(0, self.world.kernels_run)
        work, speed = self._day
        return own / 2**0.5, kernels + work, 10 * kernels + speed + 0 * own

    def _processes(
        self,
        names: Collection[str],
        count: int,
        rounds: int,
        run: _Drawn,
        slowed: Mapping[str, float],
        *,
        confirms: bool,
        models: Mapping[str, float] = {},
    ) -> dict[str, tuple[Process, ...]]:
        at = [list(self.slowed).index(name) for name in names]
        shape = (len(at), count)
        wild = self._wild[at]
        shift = run[0][at] + [slowed.get(name, 0.0) for name in names]
        case = self._drawn(shape, rounds, self.world.process, wild) + shift[:, None, None]
        plain = run[1][at] + [models.get(name, 0.0) for name in names]
        kernels = self._drawn(shape, rounds, self.world.kernels, 1 + 0 * wild) + plain[:, None, None]
        machine = self.random.normal(0, 0.15, (*shape, 1)) + run[2][at][:, None, None]
        views: dict[View, np.ndarray] = {
            "same work": case,
            "control": kernels,
            "machine": case + kernels,
            "wall": case + kernels + machine,
        }
        means = {view: values.mean(axis=2).tolist() for view, values in views.items()}
        spread = {view: values.var(axis=2, ddof=1).tolist() for view, values in views.items()}
        return {
            name: tuple(
                Process(
                    views={view: Observation(means[view][i][j], rounds, spread[view][i][j]) for view in views},
                    confirms=confirms,
                    ranks=self.world.ranks,
                    agent=self._agents,
                )
                for j in range(count)
            )
            for i, name in enumerate(names)
        }

    def _drawn(self, shape: tuple[int, int], rounds: int, process: float, wild: np.ndarray) -> np.ndarray:
        """Draw the rounds of processes without a change."""
        import numpy as np

        tail, world = self.world.tail, self.world
        unit = ((tail - 2) / tail) ** 0.5
        own = self.random.standard_t(tail, (*shape, 1)) * unit * process
        drawn = self.random.standard_t(tail, (*shape, rounds)) * unit * world.rounds + own
        if world.slow:
            begin = self.random.integers(0, rounds, (*shape, 1))
            length = self.random.integers(1, rounds // 2 + 1, (*shape, 1))
            at = np.arange(rounds)
            within = (at >= begin) & (at < begin + length) & (self.random.random((*shape, 1)) < world.slow)
            drawn = drawn + within * self.random.normal(0, world.stretch, (*shape, 1))
        scaled: np.ndarray = drawn * wild[:, None, None]
        return scaled


Rule = Callable[[Suite], Mapping[str, TimeVerdict]]


def gate(suite: Suite) -> Mapping[str, TimeVerdict]:
    """Return the verdicts as a live run comes to them: screen, confirmation, unresolved cases again."""
    suite.measure(dict.fromkeys(screen(suite.cases).confirm, suite.policy.confirm_processes))
    done = 0
    while more := needs_more(suite.cases, suite.policy, done=done):
        suite.measure(more)
        done += 1
    return judge_time(suite.cases, suite.policy)
