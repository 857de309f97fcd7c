"""What the collectives of a traced case cost: bytes, seconds, what compute hides, and who is waited for. Pure.

A collective cannot move anything before the last rank is ready for it. So the n-th call of a kind and size is matched
across ranks, and a rank's time in it is cut in two: the wait for the last rank's begin, and the transfer after that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.records.spans import Span, length, merged, without
from harness.records.trace import Call, RankTrace, TracedStep

_SIZES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp64": 8, "int": 4, "long int": 8}
_SHARE_OF_THE_STRAGGLER = 0.8
_LEAST_WAIT = 0.02
"""Of a step: less waiting than this names nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """One collective of one rank, with what the other ranks tell about it."""

    call: Call
    ready_s: float
    """When the last rank was ready."""

    @property
    def wait(self) -> Span:
        """Waiting for the last rank."""
        return self.call.begin_s, min(self.ready_s, self.call.end_s)

    @property
    def transfer(self) -> Span:
        """From when all ranks were ready."""
        return min(self.ready_s, self.call.end_s), self.call.end_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One kind of collective in a step: means over ranks and steps."""

    kind: str
    calls: float
    size_bytes: float | None
    """nccl-tests' size S over all calls: of all-gather and reduce-scatter the whole over ranks; None of an unknown
    type."""
    transfer_s: float
    wait_s: float
    exposed_s: float
    """Of the transfer, what no compute of the same rank hides."""
    ranks: int

    @property
    def algbw_bytes_per_s(self) -> float | None:
        """Size S over the seconds of the transfer (nccl-tests, doc/PERFORMANCE.md)."""
        return self.size_bytes / self.transfer_s if self.size_bytes is not None and self.transfer_s > 0 else None

    @property
    def busbw_bytes_per_s(self) -> float | None:
        """`algbw` times what a link must carry of each byte (nccl-tests, doc/PERFORMANCE.md); None of other kinds."""
        factor, algbw = bus_factor(self.kind, self.ranks), self.algbw_bytes_per_s
        return None if factor is None or algbw is None else algbw * factor


def bus_factor(kind: str, ranks: int) -> float | None:
    """Return busbw over algbw as nccl-tests defines them; None for a kind it does not define."""
    factors = {
        "all_reduce": 2 * (ranks - 1) / ranks,
        "all_gather": (ranks - 1) / ranks,
        "reduce_scatter": (ranks - 1) / ranks,
        "all_to_all": (ranks - 1) / ranks,
        "broadcast": 1.0,
        "reduce": 1.0,
    }
    return factors.get(kind)


def size_bytes(call: Call, ranks: int) -> int | None:
    """Return nccl-tests' size S of one call, bytes; None of an unknown type."""
    size = _SIZES.get(call.type)
    if size is None:
        return None
    return call.elements * size * (ranks if call.kind == "all_gather" else 1)


def _unmatched(steps: Sequence[TracedStep]) -> list[list[Matched]]:
    """Return the calls of one step of every rank, as if none waited."""
    return [[Matched(call=call, ready_s=call.begin_s) for call in step.calls] for step in steps]


def matched(steps: Sequence[TracedStep]) -> list[list[Matched]]:
    """Return the calls of one step of every rank, each with the moment the last rank was ready.

    Ranks may make different calls (a broadcast's source, a failed match); what not all ranks made is not waited for.
    """
    ready: dict[tuple[str, str, int, int], list[float]] = defaultdict(list)
    keyed = []
    for step in steps:
        seen: dict[tuple[str, str, int], int] = defaultdict(int)
        own = []
        for call in step.calls:
            what = (call.kind, call.type, call.elements)
            key = (*what, seen[what])
            seen[what] += 1
            ready[key].append(call.begin_s)
            own.append((key, call))
        keyed.append(own)
    return [
        [
            Matched(call=call, ready_s=max(ready[key]) if len(ready[key]) == len(steps) else call.begin_s)
            for key, call in own
        ]
        for own in keyed
    ]


def figures(traces: Sequence[RankTrace]) -> list[Figures]:
    """Return the figures of every kind of collective, the costliest first; none of one rank, which moves nothing.

    Where collectives are among some of the ranks, it is not known which, and so neither who was waited for nor what
    was moved: seconds are those of whole calls, and there is no bandwidth.
    """
    ranks = len(traces)
    if ranks == 1:
        return []
    grouped = traces[0].grouped
    seen: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    unknown = set()
    count = 0
    for of_ranks in zip(*(trace.steps for trace in traces), strict=True):
        for step, own in zip(of_ranks, (_unmatched if grouped else matched)(of_ranks), strict=True):
            count += 1
            for kind in {one.call.kind for one in own}:
                of_kind = [one for one in own if one.call.kind == kind]
                sizes = [size_bytes(one.call, ranks) for one in of_kind]
                unknown |= {kind} if grouped or None in sizes else set()
                transfers = [one.transfer for one in of_kind]
                seen[kind].append(
                    (
                        len(of_kind),
                        sum(size or 0 for size in sizes),
                        length(transfers),
                        length(without((one.wait for one in of_kind), transfers)),
                        length(without(transfers, step.compute)),
                    )
                )
    made = []
    for kind, samples in seen.items():
        calls, size, transfer_s, wait_s, exposed_s = (sum(column) / count for column in zip(*samples, strict=True))
        made.append(
            Figures(
                kind=kind,
                calls=calls,
                size_bytes=None if kind in unknown else size,
                transfer_s=transfer_s,
                wait_s=wait_s,
                exposed_s=exposed_s,
                ranks=ranks,
            )
        )
    return sorted(made, key=lambda one: -one.transfer_s)


def straggler(traces: Sequence[RankTrace]) -> tuple[int, float] | None:
    """Return the rank that the others wait for and the seconds a step that they do, or None where it is no single one.

    The last to be ready is found whatever the collective, the library or its kernels are called.
    """
    waited: Mapping[int, float] = defaultdict(float)
    step_s = []
    for of_ranks in zip(*(trace.steps for trace in traces), strict=True):
        step_s += [step.end_s - step.begin_s for step in of_ranks]
        everyone = matched(of_ranks)
        waits = [length(waits_and_transfers(own)[0]) for own in everyone]
        for rank, own in enumerate(everyone):
            others = [wait for other, wait in enumerate(waits) if other != rank]
            # It holds the others up by what they wait longer than it does itself.
            if own and others:
                waited[rank] += max(0.0, fmean(others) - waits[rank])  # type: ignore[index]
    total = sum(waited.values())
    if not total:
        return None
    rank = max(waited, key=lambda rank: waited[rank])
    per_step_s = waited[rank] / len(traces[0].steps)
    if waited[rank] < _SHARE_OF_THE_STRAGGLER * total or per_step_s < _LEAST_WAIT * fmean(step_s):
        return None
    return rank, per_step_s


def waits_and_transfers(own: Sequence[Matched]) -> tuple[list[Span], list[Span]]:
    """Return when one rank only waited for a late one, and when anything was transferred."""
    transfers = merged(one.transfer for one in own)
    return without((one.wait for one in own), transfers), transfers
