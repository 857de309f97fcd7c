"""Whether a strategy trained as the reference did, from what both were seen to do; and if not, what is wrong. Pure.

Two things are held to the reference: figures (losses, gradient norms, the state after the last step) within a
tolerance that follows from the arithmetic, and the regime, row by row. A wrong figure is traced to its cause where its
pattern tells: a gradient of 1/n of the norm was divided by the number of ranks twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from harness.certificate import Certificate, Figure, Grade, Watched
from harness.gate.causes import explain
from harness.gate.evidence import Evidence, apart, norms_of, tolerance
from harness.gate.regime import rows


def judge(evidence: Evidence, *, key: str, seconds: float, unix_time: float) -> Certificate:
    """Return the certificate of a case: granted if nothing is wrong."""
    demanded: Grade = "bit-equal" if evidence.reference.rounding is None else "rounding"
    figures = tuple(_figures(evidence))
    regime = tuple(rows(evidence))
    wrong = [figure for figure in figures if not figure.difference <= figure.tolerance]  # no number is never within
    causes = [f"{row.fact}: {row.strategy}, the reference {row.reference}" for row in regime if not row.same]
    if wrong:
        apart = ", ".join(f"{figure.name} {figure.difference:.2g} ({figure.tolerance:.2g})" for figure in wrong)
        causes = [
            *explain(evidence, known=bool(causes)),
            *causes,
            f"relative differences (and what rounding allows): {apart}",
        ]
    found: Grade = "differs" if wrong else "rounding" if any(f.difference for f in figures[:-1]) else "bit-equal"
    from_fp32 = evidence.reference.from_fp32
    return Certificate(
        case_id=evidence.case.id,
        key=key,
        steps=len(evidence.ranks[0].losses),
        demanded=demanded,
        found=found,
        figures=figures,
        regime=regime,
        causes=tuple(dict.fromkeys(causes)),
        collectives=tuple(evidence.ranks[0].collectives),
        from_fp32=from_fp32.parameters if from_fp32 else None,
        seconds=seconds,
        unix_time=unix_time,
    )


def _figures(evidence: Evidence) -> Iterator[Figure]:
    ranks, played, spread = evidence.ranks, evidence.played, evidence.reference.rounding

    def figure(name: str, difference: float, rounding: float | None, least: float = 0.0) -> Figure:
        return Figure(name=name, difference=difference, tolerance=tolerance(rounding, least=least))

    ours, theirs = _losses(ranks), _losses(played)
    if len(ours) != len(theirs):  # one process drives all devices, and knows the mean alone
        ours, theirs = [_means(ours)], [_means(theirs)]
    pairs = [list(zip(own, other, strict=True)) for own, other in zip(ours, theirs, strict=True)]
    yield _worst(
        "loss", [max(apart(*losses) for losses in step) for step in zip(*pairs, strict=True)], evidence.loss_tolerance
    )
    parameters = ranks[0].differences["parameters"]
    yield figure(
        f"parameters (most: {parameters.worst})" if not parameters.equal else "parameters",
        parameters.share if not parameters.equal else 0.0,
        spread.parameters if spread else None,
    )
    buffers = max((rank.differences["buffers"] for rank in ranks), key=lambda d: (not d.equal, d.share))
    yield figure("buffers", 0.0 if buffers.equal else buffers.share, spread.buffers if spread else None)
    last = len(ranks[0].losses) - 1
    yield Figure(
        name="optimizer state",
        difference=_state_difference(evidence),
        # State is a sum of gradients: its norm varies as theirs does.
        tolerance=evidence.norm_tolerance(last),
    )
    norms = zip(evidence.norms, norms_of(played[0]), strict=True)
    yield _worst("gradient norm", [apart(*pair) for pair in norms], evidence.norm_tolerance)


def _worst(name: str, differences: Sequence[float], tolerance_at: Callable[[int], float]) -> Figure:
    """Return the step that comes closest to its tolerance, or is furthest beyond; the last of equals."""
    figures = [Figure(name=name, difference=d, tolerance=tolerance_at(step)) for step, d in enumerate(differences)]
    return max(
        reversed(figures), key=lambda f: f.difference / f.tolerance if f.tolerance else f.difference and math.inf
    )


def _state_difference(evidence: Evidence) -> float:
    """Return the largest relative difference of the norms of the optimizer's state; exactly 0 for equal digests."""
    theirs = evidence.played[0].slots
    largest = 0.0
    for name in sorted({name for rank in evidence.ranks for name in rank.slots} | set(theirs)):
        own = [rank.slots[name] for rank in evidence.ranks if name in rank.slots]
        if name not in theirs or not own:
            if (name in theirs and theirs[name].squares) or any(slot.squares for slot in own):
                return math.inf
            continue  # one that is zero is as good as none
        digest = sum(slot.digest for slot in own) % 2**64
        if digest == evidence.copies * theirs[name].digest % 2**64:
            continue
        norm = math.sqrt(sum(slot.squares for slot in own) / evidence.copies)
        largest = max(largest, apart(norm, math.sqrt(theirs[name].squares)), 2.0**-53)
    return largest


def _losses(ranks: Sequence[Watched]) -> list[tuple[float, ...]]:
    return [rank.losses for rank in ranks]


def _means(losses: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(fmean(step) for step in zip(*losses, strict=True))
