"""What one rank was seen to do in the steps of a traced run: when it computed, communicated, and waited for data.

All times are seconds on one clock, which the ranks of a machine share, since an origin that differs from run to run.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from harness.records.spans import Span, merged

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Call:
    """One collective."""

    backend: str
    """`gloo` or `nccl`."""
    kind: str
    """`all_reduce`, `all_gather`, `reduce_scatter`, `broadcast`, ..."""
    type: str
    """Of the elements: fp32, bf16, fp16, ..."""
    elements: int
    """Of this rank's input tensors."""
    begin_s: float
    """When the rank was ready for it and it had its turn: gloo's thread took it up, or NCCL's kernel began."""
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class TracedStep:
    """One step of one rank, from asking for its batch to the end of its update."""

    begin_s: float
    end_s: float
    data: Span
    """Waiting for the batch, from asking the loader to holding it on the device."""
    update: Span
    """The strategy's whole step: forward, backward, collectives, optimizer."""
    computing_us: tuple[int, ...]
    """When kernels ran, collectives' own left out; on a CPU, operators: alternately the whole microseconds to the next
    stretch, at first from the step's begin, and those of the stretch. There are thousands, so they are kept short."""
    calls: tuple[Call, ...]
    """In order of their begin."""
    queued_s: float | None = None
    """Seconds in which the rank's main thread was ready to run and had no core; None where the kernel does not tell."""

    @property
    def compute(self) -> list[Span]:
        """When it computed: in order, none touches the next."""
        ends_us = list(accumulate(self.computing_us))
        return merged(
            (self.begin_s + a * 1e-6, self.begin_s + b * 1e-6) for a, b in zip(ends_us[::2], ends_us[1::2], strict=True)
        )


def packed(spans: Iterable[Span], begin_s: float) -> tuple[int, ...]:
    """Return spans as `TracedStep.computing_us` holds them."""
    edges = [round((edge - begin_s) * 1e6) for span in spans for edge in span]
    return tuple(edge - before for before, edge in pairwise([0, *edges]))


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class RankTrace:
    """The traced steps of one rank."""

    device: str
    """`cpu` or `cuda:<i>`."""
    steps: tuple[TracedStep, ...]
    plain_s: tuple[float, ...]
    """Of steps made in the same run before the profiler was attached, seconds."""
    grouped: bool = False
    """Whether some collectives are among some of the ranks alone, which are not told; records of before have none."""
    unsynchronised_s: tuple[float, ...] = ()
    """Of the same steps without synchronisation, where the strategy has them: compute alone, seconds."""
