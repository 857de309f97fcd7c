"""Takes the processes that the time layer judges: of all cases in random order, spread over the run.

What a machine does to times changes within minutes, so processes of one case that followed each other would vary less
than they do.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

from pydantic import TypeAdapter

from harness.case import Case
from harness.errors import HarnessError
from harness.machine.sampling import Window
from harness.records.samples import RankSamples, Samples
from harness.results import RankReport

_RANK: TypeAdapter[RankSamples] = TypeAdapter(RankSamples)

Stage = Literal["screen", "confirm"]


@dataclass(slots=True, kw_only=True)
class Sampler:
    """Takes processes, and keeps them."""

    launch: Callable[..., tuple[Sequence[RankReport], float]]
    """Given a case, a title and fields of its job: start the ranks; returns their reports and the seconds it took."""
    sampled: Callable[..., AbstractContextManager[Window]]
    """Given a case and seconds between readings: read the machine while a block runs."""
    order: random.Random
    renew: Callable[[], None] = lambda: None
    """Ends the agent that starts the ranks, so that the next process has another."""
    taken: dict[Case, list[Samples]] = field(default_factory=dict)
    failed: dict[Case, HarnessError] = field(default_factory=dict)
    """Cases of which a process failed, and why; no more is taken of those."""
    cost_s: float = 0.0
    agent: int = 0
    """How many agents there were before this one."""

    def take(self, wanted: Mapping[Case, int], *, stage: Stage, rounds_s: float, until_s: float | None = None) -> None:
        """Take so many processes of each case.

        Every pass takes one of each case that still lacks any, in an order of its own.

        Args:
            wanted: processes by case.
            stage: what they are taken for.
            rounds_s: seconds of interleaved work in each.
            until_s: `time.monotonic()` after which no further one is begun; None takes all.
        """
        total, number = sum(wanted.values()), 0
        for turn in range(max(wanted.values(), default=0)):
            cases = [case for case, count in wanted.items() if turn < count]
            for case in self.order.sample(cases, k=len(cases)):
                number += 1
                if case in self.failed or (until_s is not None and time.monotonic() > until_s):
                    continue
                self._one(case, f"{stage} {number}/{total}  {case}", stage, rounds_s)

    def take_beside(
        self,
        accepted: Sampler,
        wanted: Mapping[Case, int],
        *,
        agents: int,
        rounds_s: float,
        until_s: float | None = None,
    ) -> None:
        """Confirm cases with the accepted code beside them: one process of each of both, in random order, in turns.

        Args:
            accepted: takes processes of the accepted code.
            wanted: processes by case, of either code.
            agents: so many new ones start them, one after another, for each code.
            rounds_s: as for `take`.
            until_s: as for `take`; both codes have equally many in the end.
        """
        sides, turns = (self, accepted), max(wanted.values(), default=0)
        begun, spent_s = {case: len(self.of(case)) for case in wanted}, accepted.cost_s
        for turn in range(turns):
            if until_s is not None and time.monotonic() > until_s:
                break
            if turn * agents // turns != (turn - 1) * agents // turns:
                for side in sides:
                    side.renew()
                    side.agent += 1
            due = [(case, side) for case, count in wanted.items() if turn < count for side in sides]
            for case, side in self.order.sample(due, k=len(due)):
                if case not in self.failed and case not in accepted.failed:
                    code = "accepted" if side is accepted else "candidate"
                    title = f"confirm {turn + 1}/{turns}  {case}, {code}"
                    side._one(case, title, "confirm", rounds_s, seed=begun[case] + turn)
        self.cost_s += accepted.cost_s - spent_s

    def of(self, case: Case, stage: Stage | None = None) -> tuple[Samples, ...]:
        """Return the processes of a case, of one stage or all, in the order they ran."""
        return tuple(one for one in self.taken.get(case, ()) if stage in (None, one.stage))

    def _one(self, case: Case, title: str, stage: Stage, rounds_s: float, *, seed: int | None = None) -> None:
        began, started = time.monotonic(), time.time()
        # The n-th process of every run has the same data and weights, which a detector's work depends on.
        seed = len(self.of(case)) if seed is None else seed
        try:
            with self.sampled(case, interval_s=None) as window:
                reports, wall_s = self.launch(case, title, purpose="replicate", sampled_s=rounds_s, seed=seed)
        except HarnessError as error:
            self.failed[case] = error
        else:
            lead = reports[0].extra
            samples = Samples(
                stage=stage,
                started_unix_s=started,
                wall_s=wall_s,
                settled_after=lead["settled_after"],
                steps=lead["steps"],
                references=lead["references"],
                ranks=tuple(_RANK.validate_python(report.extra["samples"]) for report in reports),
                watched=window.telemetry,
                agent=self.agent,
            )
            self.taken.setdefault(case, []).append(samples)
        finally:
            self.cost_s += time.monotonic() - began
