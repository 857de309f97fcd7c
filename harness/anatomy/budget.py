"""What a step's time is spent on, rank by rank, and in one word what it is bound by. Pure.

Each moment of a step counts once, for the first of these that holds: computing, transferring, waiting for a late rank,
waiting for data, host work (in the update, and none of these). So transfers count as far as nothing hides them, and
what is left of the step is the remainder. Time in which the rank was ready to run and had no core is `idle`: the kernel
tells its sum alone, so it is taken from computing, data and host work in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

from harness.anatomy.communication import Matched, matched, waits_and_transfers
from harness.records.spans import inside, length, without
from harness.records.trace import RankTrace, TracedStep

MOST_REMAINDER = 0.02
"""Of a step: a larger remainder is flagged."""

WORDS = {
    "compute_s": "compute",
    "communication_s": "communication",
    "late_s": "communication",
    "data_s": "data",
    "host_s": "host",
    "idle_s": "no core",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Seconds of a step, mean over the traced steps; they add up to `step_s`."""

    compute_s: float
    communication_s: float
    """Transfers that nothing hides."""
    late_s: float
    """Waiting for a late rank, with nothing else to do."""
    data_s: float
    host_s: float
    idle_s: float | None
    """Ready, and no core; None where the kernel does not tell, and then within the others."""
    remainder_s: float
    step_s: float
    """From boundary to boundary, in the traced run."""

    @property
    def flagged(self) -> bool:
        """Whether more is unexplained than may be."""
        return self.remainder_s > MOST_REMAINDER * self.step_s

    @property
    def bound(self) -> str:
        """What takes the largest part: compute, communication (late ranks included), data, host, or no core."""
        shares: dict[str, float] = {}
        for name, word in WORDS.items():
            shares[word] = shares.get(word, 0.0) + (getattr(self, name) or 0.0)
        return max(shares, key=lambda word: shares[word])


def budgets(traces: Sequence[RankTrace]) -> list[Budget]:
    """Return the budget of each rank."""
    of_steps = []
    for of_ranks in zip(*(trace.steps for trace in traces), strict=True):
        of_steps.append([_budget(step, own) for step, own in zip(of_ranks, matched(of_ranks), strict=True)])
    return [mean(own) for own in zip(*of_steps, strict=True)]


def mean(parts: Sequence[Budget]) -> Budget:
    """Return the mean of each part, over steps or over ranks: what is None in one is None."""
    values: dict[str, float | None] = {}
    for field in fields(Budget):
        known = [getattr(part, field.name) for part in parts]
        values[field.name] = None if None in known else fmean(known)
    return Budget(**values)  # type: ignore[arg-type]


def _budget(step: TracedStep, own: Sequence[Matched]) -> Budget:
    window = (step.begin_s, step.end_s)
    late, transfers = (inside(spans, window) for spans in waits_and_transfers(own))
    compute = inside(step.compute, window)
    counted = list(compute)
    parts = {"compute_s": length(compute)}
    claims = {"communication_s": transfers, "late_s": late, "data_s": [step.data], "host_s": [step.update]}
    for name, spans in claims.items():
        rest = inside(without(spans, counted), window)
        parts[name] = length(rest)
        counted += rest
    step_s = step.end_s - step.begin_s
    remainder_s = step_s - sum(parts.values())
    idle_s = step.queued_s
    if idle_s is not None:
        running = ("compute_s", "data_s", "host_s")
        total = sum(parts[name] for name in running)
        idle_s = min(idle_s, total)
        for name in running:
            parts[name] *= 1 - idle_s / total if total else 1.0
    return Budget(**parts, idle_s=idle_s, remainder_s=max(0.0, remainder_s), step_s=step_s)
