"""What one process of the time layer measured: the case's steps, and frozen references between them.

A process is one launch of a case's ranks. Times of single steps vary by a sixth from process to process for reasons
that are the machine's; those of the same work in the same process vary with them, so only their ratio is compared.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from harness.records.telemetry import Telemetry

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Micros = tuple[int, ...]
"""Microseconds of each round."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class RankSamples:
    """What one rank measured: in each round every kind of work once, in an order of the round's own."""

    case_us: Micros
    """`steps` steps of the case as its strategy makes them, from asking for a batch to the end of the update."""
    plain_us: Micros
    """R1, the same work: as many steps of the same model on batches of the same size, by a plain loop without
    communication."""
    convolution_us: Micros
    """R2, the machine: convolutions, forward and backward."""
    product_us: Micros
    """R2, the machine: matrix products; on a GPU a copy."""
    collective_us: Micros
    """R3: an all-reduce of the model's bytes; none with one rank."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Samples:
    """One process."""

    stage: Literal["screen", "confirm"]
    started_unix_s: float
    wall_s: float
    """What it cost, from asking for the ranks to holding their reports."""
    settled_after: int | None
    """Warm-up rounds until the case's time stopped falling; None where it did not, within the rounds there were."""
    steps: int
    """Of the case, and of the plain loop, in a round."""
    references: dict[str, str]
    """Digest of the code of each reference, by name: `plain`, `machine`. Ratios to other code are not compared."""
    agent: int = 0
    """Which of the run's agents started it: all ranks of one agent have one layout of libraries in memory."""
    ranks: tuple[RankSamples, ...]
    watched: Telemetry | None = None
    """The machine before and after."""

    def __post_init__(self) -> None:
        if not self.ranks or len({len(rank.case_us) for rank in self.ranks}) != 1 or not self.ranks[0].case_us:
            raise ValueError("it must hold at least one rank, and as many rounds of each, at least one")
