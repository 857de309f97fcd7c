"""A certificate held to itself: its grade and its causes follow from its figures and its rows."""

from __future__ import annotations

import re

from harness.audit.findings import Place
from harness.certificate import Certificate, Grade, Row

_FIGURES = ("loss", "parameters", "buffers", "optimizer state", "gradient norm")
_FLOATING = ("fp32", "bf16", "fp16")
_KEY = re.compile(r"[0-9a-f]{16}")


def check(place: Place, certificate: Certificate, case_id: str) -> None:
    """Look at what a certificate grants, and why."""
    place.equal("case_id", certificate.case_id, case_id, by="the case that it stands with")
    place.holds("key", _KEY.fullmatch(certificate.key) is not None, f"{certificate.key[:40]!r} is no digest")
    wrong = [one for one in certificate.figures if not one.difference <= one.tolerance]
    rounded = any(one.difference for one in certificate.figures[:-1])
    found: Grade = "differs" if wrong else "rounding" if rounded else "bit-equal"
    names = [one.name.partition(" (")[0] for one in certificate.figures]
    place.equal("figures", names, [*_FIGURES], by="what is held to the reference")
    place.equal("found", certificate.found, found, by="its figures and their tolerances")
    for row in certificate.regime:
        _row(place.at(f"regime.{row.fact}"), row, certificate)
    apart = bool(wrong) or not all(row.same for row in certificate.regime)
    place.equal("causes", certificate.granted, not apart, by="its figures and its regime, as being granted")


def _row(place: Place, row: Row, certificate: Certificate) -> None:
    cause = f"{row.fact}: {row.strategy}, the reference {row.reference}"
    if row.fact == "communication" and row.same:
        place.equal("strategy", row.strategy, _moved(certificate), by="its collectives")
    if row.same:
        # Nothing seen is nothing wrong, and of sharding it is the words that differ, not what is demanded.
        alike = row.strategy in (row.reference, "none seen", "") or row.fact == "sharding"
        place.holds("same", alike, f"stored as the same, but {row.strategy!r} is not {row.reference!r}")
    else:
        place.holds("same", cause in certificate.causes, "stored as different, and no cause says so")


def _moved(certificate: Certificate) -> str:
    """Return what the row on communication says of the collectives that move the model."""
    own = {one.kind: one for one in certificate.collectives if one.type in _FLOATING}
    return ", ".join(f"{kind} of {one.elements:,} in {one.calls}" for kind, one in sorted(own.items()))
