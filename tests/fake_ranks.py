"""Ranks that only pretend: launched for the time layer, they report times drawn from a seeded generator at once."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from harness.case import Case
from harness.errors import WorkerFailed
from harness.records.samples import Samples
from harness.results import RankReport
from harness.running.sampler import Sampler
from tests.made import made_report

WALL_S = 2.0
"""What every process costs."""
_ROUNDS = 20


class Clock:
    """A clock that goes on only when ranks are launched."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        """Tell the time, as `time.monotonic` does."""
        return self.now_s

    time = monotonic


class FakeRanks:
    """What a sampler launches: a case takes 100 ms a step times its factor, the plain loop 80 ms, each kernel 10 ms."""

    def __init__(
        self,
        *,
        slower: Mapping[Case, float] | None = None,
        failing: Collection[Case] = (),
        spread: float = 0.005,
        seed: int = 1,
        clock: Clock | None = None,
    ) -> None:
        """Take what is unlike in some cases.

        Args:
            slower: factors on the step of a case.
            failing: cases of which every process fails.
            spread: standard deviation of a process, a logarithm.
            seed: of all noise.
            clock: goes on by what each process costs.
        """
        self.slower = dict(slower or {})
        self.failing = failing
        self.spread = spread
        self.clock = clock or Clock()
        self.asked: list[tuple[Case, str, dict[str, Any]]] = []
        """Case, title and fields of the job of each launch, in the order they came."""
        self.renewed: list[int] = []
        """Launches there were before each renewal of the agent."""
        self._draw = random.Random(seed)

    @property
    def cases(self) -> list[Case]:
        """The cases in the order they were launched."""
        return [case for case, _, _ in self.asked]

    def launch(self, case: Case, title: str, **over: Any) -> tuple[Sequence[RankReport], float]:
        """Return a report of each rank, as `Ranks.launch` does."""
        self.asked.append((case, title, over))
        self.clock.now_s += WALL_S
        if case in self.failing:
            raise WorkerFailed(f"{case}: rank 0 was killed by SIGKILL during train\n  its log")
        ranks = [
            made_report(
                rank,
                case.gpu_count,
                extra={
                    "samples": self._samples(self.slower.get(case, 1.0)),
                    "settled_after": 3,
                    "steps": 1,
                    "references": {"plain": "p", "machine": "m"},
                },
            )
            for rank in range(case.gpu_count)
        ]
        return ranks, WALL_S

    @contextmanager
    def sampled(self, case: Case, *, interval_s: float | None) -> Iterator[SimpleNamespace]:
        """Read nothing."""
        yield SimpleNamespace(telemetry=None)

    def sampler(self, order: int = 0) -> Sampler:
        """Return a sampler that launches these ranks, in an order of its own."""
        return Sampler(launch=self.launch, sampled=self.sampled, order=random.Random(order), renew=self._renew)

    def _renew(self) -> None:
        self.renewed.append(len(self.asked))

    def level(self, cases: Sequence[Case], *, runs: int = 6, processes: int = 5) -> dict[Case, list[list[Samples]]]:
        """Return stored runs of cases that took what these ranks take."""
        stored: dict[Case, list[list[Samples]]] = {case: [] for case in cases}
        for _ in range(runs):
            sampler = self.sampler()
            sampler.take(dict.fromkeys(cases, processes), stage="screen", rounds_s=1.0)
            for case in cases:
                stored[case].append(list(sampler.of(case)))
        return stored

    def _samples(self, slower: float) -> dict[str, list[int]]:
        """Return times of a rank; a process differs from others, and each kind of work from the others in it."""
        machine = self._draw.gauss(0, 0.05)

        def times(us: float) -> list[int]:
            level = math.log(us) + machine + self._draw.gauss(0, self.spread)
            return [round(math.exp(level + self._draw.gauss(0, 0.01))) for _ in range(_ROUNDS)]

        return {
            "case_us": times(100_000 * slower),
            "plain_us": times(80_000),
            "convolution_us": times(10_000),
            "product_us": times(10_000),
            "collective_us": [],
        }
