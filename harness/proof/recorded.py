"""Recorded runs, and how often a rule reports a slowdown in comparisons drawn from them.

The runs are of one machine in one quarter of an hour. From the processes of identical code comparisons are drawn at
random, each without a process twice: what is reported there is a false alarm. With the new side drawn from processes
with planted work instead, what is reported is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from harness.errors import StoreError
from harness.gate import chance
from harness.stored import reading

WARM_UP = 1
"""Rounds of a process that no rule looks at. The first took twice as long as the others; from the second on none
stands out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recorded:
    """One recorded process; microseconds of each round, by kind of work: step, twin, rconv, rmm."""

    started_unix_s: float
    extra: int
    """How many matrix products were planted in `step`."""
    wall_us: dict[str, tuple[int, ...]]
    cpu_us: dict[str, tuple[int, ...]]
    switches: tuple[int, ...]
    """Involuntary context switches in each round."""

    def wall_of(self, work: str) -> tuple[int, ...]:
        """Return the times that rules look at, microseconds."""
        return self.wall_us[work][WARM_UP:]

    @property
    def ratio(self) -> float:
        """Mean of log(step / twin) over the rounds: the same work in the same process divided out."""
        return fmean(map(math.log, self.wall_of("step"))) - fmean(map(math.log, self.wall_of("twin")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The processes of one comparison; each group in order of time."""

    stored: tuple[Recorded, ...]
    new: tuple[Recorded, ...]
    fresh: tuple[Recorded, ...]
    """Of the new code, looked at only to confirm what the others made suspect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A rule, and with how many processes it is tried."""

    name: str
    stored: int
    new: int
    fresh: int = 0
    alarms: Callable[[Draw], bool | None]
    """Whether a slowdown is reported; None where the rule says that it cannot tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often a rule reported a slowdown."""

    reported: int
    untold: int
    """How often it said that it could not tell."""
    draws: int
    apart: int
    """How many of such comparisons can be made that share no process."""

    @property
    def share(self) -> float:
        """Reported of all."""
        return self.reported / self.draws

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95 % bounds (Clopper and Pearson, 1934) for the share of these processes' comparisons."""
        return chance.proportion(self.reported, self.draws, 0.975)

    @property
    def apart_interval(self) -> tuple[float, float]:
        """The same for the machine, from as many comparisons as share no process, with the same share of reports.

        The mean over all draws from n processes, m in each, varies at most as that of n / m independent comparisons
        (Hoeffding, Ann. Math. Stat. 19, 1948). Shares between two counts take the wider bound.
        """
        reported = self.share * self.apart
        low, _ = chance.proportion(math.floor(reported), self.apart, 0.975)
        _, high = chance.proportion(math.ceil(reported), self.apart, 0.975)
        return low, high


def load(path: Path) -> tuple[Recorded, ...]:
    """Return the recorded processes, in order of time.

    Raises:
        OSError: there is no such file.
        StoreError: it holds something else.
    """
    mend = "restore it from version control"
    plain = reading.read(path, kind="file of recorded processes", mend=mend)
    try:
        return _recorded(plain["processes"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path} is no file of recorded processes ({error}); {mend}") from error


def _recorded(processes: list[dict[str, Any]]) -> tuple[Recorded, ...]:
    return tuple(
        Recorded(
            started_unix_s=process["t"],
            extra=process["extra"],
            wall_us={work: tuple(times) for work, times in process["wall_us"].items()},
            cpu_us={work: tuple(times) for work, times in process["cpu_us"].items()},
            switches=tuple(process["nivcsw"]),
        )
        for process in sorted(processes, key=lambda process: process["t"])
    )


def sizes(processes: Sequence[Recorded]) -> dict[int, float]:
    """Return by how much each planted `extra` slows the step: the mean of the ratios over that of identical code."""
    ratios: dict[int, list[float]] = {}
    for process in processes:
        ratios.setdefault(process.extra, []).append(process.ratio)
    null = fmean(ratios[0])
    return {extra: math.expm1(fmean(ratios[extra]) - null) for extra in sorted(ratios) if extra}


def tried(contender: Contender, processes: Sequence[Recorded], extra: int, *, draws: int, seed: int = 0) -> Rate:
    """Return how often a rule reports a slowdown of processes with planted work; of identical code for extra = 0."""
    null = [process for process in processes if process.extra == 0]
    planted = [process for process in processes if process.extra == extra] if extra else []
    before, after = contender.stored, contender.new + contender.fresh
    random = Random(f"{seed} {extra} {before} {after}")
    said = []
    for _ in range(draws):
        if extra:
            old, young = random.sample(null, before), random.sample(planted, after)
        else:
            both = random.sample(null, before + after)
            old, young = both[:before], both[before:]
        new, fresh = young[: contender.new], young[contender.new :]
        said.append(contender.alarms(Draw(stored=_in_order(old), new=_in_order(new), fresh=_in_order(fresh))))
    apart = min(len(null) // before, len(planted) // after) if extra else len(null) // (before + after)
    return Rate(reported=said.count(True), untold=said.count(None), draws=draws, apart=apart)


def _in_order(processes: Sequence[Recorded]) -> tuple[Recorded, ...]:
    return tuple(sorted(processes, key=lambda process: process.started_unix_s))
