"""Figures that have no noise, held exactly to the stored ones: parameters, steps, collectives, model state, operations.
Pure.

They follow from the case and the libraries. So with equal versions any difference is a change of what the case does;
with others it may be the library's, and is said without failing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.certificate import Certificate
from harness.records.account import Account
from harness.results import Result

_KEPT = ("parameters", "gradients", "optimizer", "master", "buffers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """What differs from the stored run."""

    changes: tuple[str, ...]
    """In words: what, from how much to how much."""
    versions: tuple[str, ...]
    """Libraries of another version than the stored run's; empty means that the changes are the case's own."""


def compare(
    result: Result, certificate: Certificate, *, baseline: Result, baseline_certificate: Certificate | None
) -> Exact:
    """Return what differs exactly; what either run did not look at is not compared.

    Nor is what another kind of device has otherwise for good reason: the collectives of another backend, and what lies
    in a device's memory and runs on it.
    """
    changes = list(_counts(result, baseline))
    if baseline_certificate and not _other_backend(certificate, baseline_certificate):
        changes += _collectives(certificate, baseline_certificate)
    if result.accounts and baseline.accounts and device_kind(result) == device_kind(baseline):
        changes += _accounts(result.accounts, baseline.accounts)
    ours, theirs = result.versions, baseline.versions
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return Exact(
        changes=tuple(changes),
        versions=tuple(f"{name} {theirs.get(name, 'none')} -> {ours.get(name, 'none')}" for name in names),
    )


def device_kind(result: Result) -> str:
    """Return the kind of device a case was trained on, such as `cpu`."""
    return result.lead.device.partition(":")[0]


def _counts(ours: Result, theirs: Result) -> Iterator[str]:
    for name in ("parameters", "trained_parameters"):
        now, before = getattr(ours.lead, name), getattr(theirs.lead, name)
        if None not in (now, before) and now != before:
            yield f"{name.replace('_', ' ')}: {before:,} -> {now:,}"
    now, before = ([epoch.steps for epoch in one.lead.epochs] for one in (ours, theirs))
    if now and before and now != before:
        yield f"steps of the epochs: {', '.join(map(str, before))} -> {', '.join(map(str, now))}"


def _other_backend(ours: Certificate, theirs: Certificate) -> bool:
    now, before = ({call.backend for call in certificate.collectives} for certificate in (ours, theirs))
    return bool(now and before and now != before)


def _collectives(ours: Certificate, theirs: Certificate) -> Iterator[str]:
    now, before = (
        {(c.kind, c.type): (c.calls, c.elements) for c in certificate.collectives} for certificate in (ours, theirs)
    )
    for kind, type_ in sorted(now.keys() | before.keys()):
        (calls, elements), (calls_before, elements_before) = (of.get((kind, type_), (0, 0)) for of in (now, before))
        if calls != calls_before:
            yield f"{kind} in {type_}: {calls_before} calls -> {calls}"
        if elements != elements_before:
            yield f"{kind} in {type_}: {elements_before:,} elements -> {elements:,}"


def _accounts(ours: Sequence[Account], theirs: Sequence[Account]) -> Iterator[str]:
    for rank, (now, before) in enumerate(zip(ours, theirs, strict=True)):
        for name, (was, is_) in _figures(before, now).items():
            if was != is_:
                yield f"{name} of rank {rank}: {was:,} -> {is_:,}"


def _figures(before: Account, now: Account) -> Mapping[str, tuple[int, int]]:
    held = {f"bytes of {kind}": (before.kept.by_kind()[kind], now.kept.by_kind()[kind]) for kind in _KEPT}
    return held | {"floating-point operations": (before.flops, now.flops)}
