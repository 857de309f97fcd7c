"""Figures that are the case's and no machine's, held to what other machines stored: a gate from the first run on. Pure.

A machine without stored runs of its own has nothing to hold times to. But parameters, collectives, model state and
operations follow from the case and the libraries, and a speedup is a ratio that machines of one kind share roughly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.case import Case
from harness.certificate import Certificate
from harness.gate import exact
from harness.gate.exact import Exact, device_kind
from harness.metrics import timing
from harness.results import Result

BAND = 2.5
"""A speedup may lie outside of those of other machines by this factor: links and cores differ, and each was told by one
process, whose time varies by a sixth on a busy machine. Gross losses are larger."""

SUPERLINEAR = 1.5
"""Times the number of GPUs is the most that a speedup can be. The batch per GPU is kept (weak scaling), so that N GPUs
do N times the work of one in no less time than one needs for its part: N is the bound (Gustafson, Reevaluating Amdahl's
law, CACM 31, 1988). The rest is for caches, for optimizers that are faster than the reference's, and for noise; what is
beyond was measured wrongly."""


class Record(Protocol):
    """A stored case; of another machine."""

    @property
    def where(self) -> str:
        """The file, as messages name it."""

    @property
    def result(self) -> Result:
        """The case's."""

    @property
    def reference(self) -> Result | None:
        """That its speedup was taken against."""

    @property
    def certificate(self) -> Certificate | None:
        """Of the case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portable:
    """What does not hold on this machine and should on any."""

    exact: Exact | None = None
    """Against the newest record from elsewhere; None without one."""
    against: str = ""
    """Where that record stands."""
    speedup: tuple[str, ...] = ()
    """What is wrong with the speedup, in words."""

    @property
    def causes(self) -> tuple[str, ...]:
        """What fails the case, in words; changes that another version of a library may have made are none."""
        changes = self.exact.changes if self.exact is not None and not self.exact.versions else ()
        return (*(f"{change} (stored in {self.against}, equal versions)" for change in changes), *self.speedup)


def compare(
    result: Result,
    certificate: Certificate,
    *,
    speedup: float | None,
    others: Sequence[Record],
    disturbed: Sequence[str] = (),
) -> Portable:
    """Return what does not hold here.

    Args:
        result: of the case.
        certificate: of the case.
        speedup: by processes of the time layer; None where there is none.
        others: records of the same case and set-up from other machines, newest first.
        disturbed: what disturbed the timing, in words; the speedup is not judged then, nor where ranks share cores.
    """
    alike = [other for other in others if device_kind(other.result) == device_kind(result)]
    against = next(iter([*alike, *others]), None)
    timed = speedup is not None and not result.oversubscribed and not disturbed
    found = tuple(_speedup(result, speedup, alike)) if speedup is not None and timed else ()
    if against is None:
        return Portable(speedup=found)
    changes = exact.compare(result, certificate, baseline=against.result, baseline_certificate=against.certificate)
    return Portable(exact=changes, against=against.where, speedup=found)


def _speedup(result: Result, speedup: float, alike: Sequence[Record]) -> Iterator[str]:
    gpus = Case.parse(result.case_id).gpu_count
    if gpus > 1 and speedup > gpus * SUPERLINEAR:
        yield (
            f"speedup {speedup:.2f}x on {gpus} GPUs is beyond {gpus * SUPERLINEAR:.2f}x: with the "
            f"batch per GPU kept no more than {gpus} can be gained, so it, or its reference, was measured wrongly"
        )
    judged = [other for other in alike if not other.result.oversubscribed]
    stored = [s for s in (timing.speedup(other.result, other.reference) for other in judged) if s is not None]
    if stored and not min(stored) / BAND <= speedup <= max(stored) * BAND:
        yield (
            f"speedup {speedup:.2f}x is outside of {min(stored) / BAND:.2f}x to {max(stored) * BAND:.2f}x: "
            f"{len(stored)} other machine{'s' * (len(stored) > 1)} of this kind stored {min(stored):.2f}x"
            + (f" to {max(stored):.2f}x" if len(stored) > 1 else "")
            + f", and a factor of {BAND:g} is allowed"
        )
