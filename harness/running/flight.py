"""The last collectives of ranks that hang, as torch's flight recorder has them: which rank is late for which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Call:
    """A collective that a rank entered."""

    group: str
    """Of ranks, by a name that all of them know it by."""
    members: tuple[int, ...]
    number: int
    """Among those of the group, from 1."""
    name: str
    """As the backend says, such as `gloo:all_reduce`."""
    elements: int
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Flight:
    """What a rank could tell."""

    calls: tuple[Call, ...] = ()
    why_not: str = ""
    """Why nothing is known, completing "its collectives are n/a: "."""


_FLIGHT: TypeAdapter[Flight] = TypeAdapter(Flight)


def file_of(folder: Path, rank: int) -> Path:
    """Return the file in which a rank tells its collectives when it is asked."""
    return folder / f"rank{rank}.collectives.json"


def packed(flight: Flight) -> bytes:
    """Return what a rank tells as its file holds it."""
    return _FLIGHT.dump_json(flight)


def read(folder: Path, ranks: Iterable[int]) -> dict[int, Flight]:
    """Return what each rank told; where it told nothing, that."""
    found = {}
    for rank in ranks:
        try:
            found[rank] = _FLIGHT.validate_json(file_of(folder, rank).read_bytes())
        except (OSError, ValidationError):
            found[rank] = Flight(why_not="it did not answer when it was asked")
    return found


def told(flights: Mapping[int, Flight]) -> Iterator[str]:
    """Yield which ranks are late for which collective, group by group, and of whom that is not known."""
    known = {rank: flight.calls for rank, flight in flights.items() if not flight.why_not}
    groups = {call.group: call.members for calls in known.values() for call in calls}
    for group, members in groups.items():
        # Who belongs to a group may not be known; then every rank that told anything may.
        last = {rank: _last(calls, group) for rank, calls in known.items() if not members or rank in members}
        waiting = {rank: call for rank, call in last.items() if call is not None and not call.done}
        if not waiting:
            continue
        newest = max(waiting.values(), key=lambda call: call.number)
        what = f"{newest.name} {newest.number} of group {group} ({newest.elements:,} elements)"
        came = {rank: call.number if call is not None else 0 for rank, call in last.items()}
        late = {rank: number for rank, number in came.items() if number < newest.number}
        inside = _ranks(rank for rank, call in waiting.items() if call.number == newest.number)
        if late:
            far = ", ".join(f"rank {rank} to {number or 'none'}" for rank, number in sorted(late.items()))
            yield f"late: {inside} in {what}, which {_ranks(late)} did not enter; came so far: {far}"
        else:
            yield f"all inside: {inside} in {what}, which does not end"
    for rank, flight in sorted(flights.items()):
        if flight.why_not:
            yield f"collectives of rank {rank} n/a: {flight.why_not}"


def _last(calls: Iterable[Call], group: str) -> Call | None:
    return max((call for call in calls if call.group == group), key=lambda call: call.number, default=None)


def _ranks(numbers: Iterable[int]) -> str:
    shown = ", ".join(str(number) for number in sorted(numbers))
    return f"rank {shown}" if "," not in shown else f"ranks {shown}"
